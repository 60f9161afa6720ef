// Arbitrary bytes as a model's configuration in the well-known format, as text or as JSON.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "repository/config_completion.h"
#include "repository/config_mapping.h"

namespace {

using namespace millrace;

constexpr std::string_view kSource = "fuzz/config.pbtxt";
constexpr DeviceId kDevices[] = {DeviceId::cuda(0), DeviceId::host(0)};

void require(bool holds) {
  if (!holds) std::abort();
}

/// Every error says where.
template <class T>
bool fine(const Result<T>& result) {
  if (!result.ok()) require(result.error().message.starts_with(kSource));
  return result.ok();
}

ModelInfo some_model() {
  ModelInfo info;
  info.backend = "onnxruntime";
  info.max_items = 32;
  info.inputs = {{"input", DataType::fp32, {kDynamic, 4}, 0, false}};
  info.outputs = {{"output", DataType::bytes, {kDynamic, 2}, 0, false}};
  return info;
}

void map(const ConfigText& text) {
  static const ModelFiles files = *ModelFiles::of_contents({{"1/model.onnx", ""}});
  const Result<ConfigMapping> mapping = map_config(text, files, kDevices);
  (void)fine(choose_versions(text, {1, 2, 10}));
  (void)fine(complete_config(text, some_model(), "fuzz", "model.onnx"));
  if (!fine(mapping)) return;
  for (const StatedField& stated : mapping->fields) {
    require(stated.field && stated.where.starts_with(kSource));
  }
  const ModelConfig& engine = mapping->engine;
  require(engine.batching.max_items >= 0 && engine.lanes >= 0 && engine.slots >= 1);
  require(engine.batching.max_delay >= Duration::zero() && engine.limits.max_requests > 0);
  require(engine.weight > 0 && engine.hang_timeout >= Duration::zero());
  const RequestPolicy::Terms terms = mapping->requests.terms(1, std::chrono::seconds(1));
  require(terms.priority <= 0 && terms.timeout.value_or(Duration(1)) > Duration::zero());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Result<ConfigText> text = ConfigText::parse(bytes, std::string(kSource));
  if (fine(text)) map(*text);
  const Result<ConfigText> json = ConfigText::parse_json(bytes, std::string(kSource));
  if (fine(json)) map(*json);
  return 0;
}
