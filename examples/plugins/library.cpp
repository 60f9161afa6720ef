#include "library.h"

#include "mish_plugin.h"
#include "yolo_decode_plugin.h"

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
  static millrace::plugins::Creator<millrace::plugins::MishPlugin> mish;
  static millrace::plugins::Creator<millrace::plugins::YoloDecodePlugin> yolo_decode;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&mish, &yolo_decode};
  count = static_cast<std::int32_t>(std::size(creators));
  return creators;
}
