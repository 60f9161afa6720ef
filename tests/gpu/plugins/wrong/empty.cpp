// A library of plug-ins that has none.
#include "examples/plugins/library.h"

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const none = nullptr;
  count = 0;
  return &none;
}
