// A creator of a kind that nobody here knows.
#include "examples/plugins/library.h"

namespace {

class Creator final : public nvinfer1::IPluginCreatorInterface {
 public:
  nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override {
    return {"PLUGIN CREATOR_V9", 1, 0};
  }
};

}  // namespace

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static Creator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}
