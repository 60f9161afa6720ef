// Several models on several devices: one on both host devices, one on the second only.
//
// The digits model's requests wait in one queue, bound to no device; whichever device has a lane
// free takes the next batch. The neighbour, a stand-in for a slow model, has a right to half of the
// second device's time; while it has its turn there, the first device goes on with the digits.
// Nobody says how to divide them.
#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include <millrace/engine.h>

namespace {

using namespace millrace;

constexpr int kDigitRequests = 1000;
constexpr int kNeighbourRequests = 40;

int fail(const Error& error) {
  std::fprintf(stderr, "several_models: %s\n", error.message.c_str());
  return 1;
}

/// Waits for all answers and says which devices gave how many.
Result<void> report(const Model& model, std::vector<Future> answers) {
  std::map<std::string, int> by_device;
  for (Future& answer : answers) {
    const Result<Response> response = answer.get();
    if (!response) return response.error();
    ++by_device[to_string(response->device)];
  }
  std::printf("%s: %zu answers\n", model.info().name.c_str(), answers.size());
  for (const auto& [device, count] : by_device) {
    std::printf("  %d from %s\n", count, device.c_str());
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  // Inputs without a lease are borrowed: these arrays are made before the engine and outlive it.
  std::array<float, 64> image{};
  std::fill(image.begin() + 3, image.end() - 3, 8.0F);
  const std::array<float, 16> numbers{};

  EngineOptions options;
  options.devices.devices = {"host:0", "host:1"};
  options.max_batches_in_flight = 1;  // on each device, so that models there take turns
  Result<Engine> engine = Engine::create(options);
  if (!engine) return fail(engine.error());

  ModelConfig digits_config;
  digits_config.path = argc > 1 ? argv[1] : "examples/digits/digits.onnx";
  digits_config.devices = {DeviceId::host(0), DeviceId::host(1)};
  digits_config.lanes = 1;  // on each device
  digits_config.batching.max_items = 8;
  const Result<Model> digits = engine->load(digits_config);
  if (!digits) return fail(digits.error());

  ModelConfig neighbour_config;
  neighbour_config.name = "neighbour";
  neighbour_config.path = "reference:busy?shape=16&batch_us=1000";
  neighbour_config.devices = {DeviceId::host(1)};
  neighbour_config.batching.max_items = 1;
  neighbour_config.weight = 1.0;  // the default, and so the digits' as well: equal shares
  const Result<Model> neighbour = engine->load(neighbour_config);
  if (!neighbour) return fail(neighbour.error());

  std::vector<Future> digit_answers;
  std::vector<Future> neighbour_answers;
  for (int i = 0; i < kDigitRequests; ++i) {
    Request request;
    request.inputs.push_back({"images", TensorView::of(image.data(), {1, 1, 8, 8}), {}});
    digit_answers.push_back(digits->submit(std::move(request)));
    if (i >= kNeighbourRequests) continue;
    Request other;
    other.inputs.push_back(
        {neighbour->info().inputs[0].name, TensorView::of(numbers.data(), {1, 16}), {}});
    neighbour_answers.push_back(neighbour->submit(std::move(other)));
  }
  if (const auto done = report(*digits, std::move(digit_answers)); !done) return fail(done.error());
  if (const auto done = report(*neighbour, std::move(neighbour_answers)); !done) {
    return fail(done.error());
  }
  for (const DeviceReport& device : engine->device_reports()) {
    std::printf("%s holds", to_string(device.info.id).c_str());
    for (const MemoryHolder& held : device.held) {
      std::printf(" %zu bytes for %s;", held.bytes, held.holder.c_str());
    }
    std::printf("\n");
  }
}
