// Tensors of LibTorch go into an engine on the GPU and come back, by DLPack and without a copy.
// Compiled by tests/gpu/run.py where Python's torch package is: against LibTorch's headers and an
// installed Millrace. One line of output for each test.
#include <ATen/ATen.h>
#include <ATen/DLConvertor.h>

#if __has_include(<cuda_runtime_api.h>) && __has_include(<c10/cuda/CUDAGuard.h>)
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#define WITH_STREAMS 1
#else
#define WITH_STREAMS 0
#endif

#include <millrace/dlpack.h>
#include <millrace/engine.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

namespace {

using namespace millrace;

template <class T>
T must(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}
void must(const Result<void>& result) {
  if (!result.ok()) throw std::runtime_error(result.error().message);
}

void check(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

/// What the tests share: GPU 0 with a model that averages the planes of [N,3,112,112].
struct Setup {
  Engine engine;
  Model model;
  Device& gpu() const { return *engine.devices()[0]; }
};

Setup make_setup(const std::string& model_file, const std::string& cache) {
  EngineOptions options;
  options.devices.devices = {"cuda:0"};
  Engine engine = must(Engine::create(std::move(options)));
  ModelConfig config;
  config.name = "average";
  config.path = model_file;
  config.batching.max_items = 16;
  config.options = {
      {"graphs", "off"}, {"cache", cache}, {"optimization_level", "0"}, {"precision", "fp32"}};
  Model model = must(engine.load(config));
  return {std::move(engine), std::move(model)};
}

/// Newer LibTorch has the versioned structure; found by its arguments, so that older ones compile.
template <class T>
concept KnowsVersioned = requires(const T& tensor) { toDLPackVersioned(tensor); };

template <class T>
Tensor import_versioned(const T& tensor, EventRef ready) {
  if constexpr (KnowsVersioned<T>) {
    return must(from_dlpack(toDLPackVersioned(tensor), ready));
  } else {
    throw std::invalid_argument("this LibTorch has no toDLPackVersioned");
  }
}

/// Taken where LibTorch has no function of that name.
namespace fallback {
[[maybe_unused]] at::Tensor fromDLPackVersioned(...) {
  throw std::invalid_argument("this LibTorch has no fromDLPackVersioned");
}
}  // namespace fallback

at::Tensor export_versioned(const Tensor& tensor) {
  using namespace at;
  using namespace fallback;
  return fromDLPackVersioned(must(to_dlpack(tensor)));
}

/// The stream that LibTorch works on now.
void* current_stream() {
#if WITH_STREAMS
  return c10::cuda::getCurrentCUDAStream(0).stream();
#else
  return nullptr;  // its default stream
#endif
}

at::Tensor pictures(std::int64_t items) {
  return at::randn({items, 3, 112, 112}, at::TensorOptions().device(at::kCUDA, 0));
}

enum class Form { old, versioned };

/// In by DLPack, out by DLPack.
void round_trip(const Setup& setup, Form form) {
  const Event ready = must(setup.gpu().new_event(EventTiming::untimed));
  for (std::int64_t items = 1; items <= 8; ++items) {
    const at::Tensor input = pictures(items);  // still being computed
    const Stream producer = must(setup.gpu().borrow_stream(current_stream()));
    must(producer.ref().record(ready));
    const auto users = input.use_count();
    const std::uint64_t bound = setup.model.statistics().bound_in_place;
    at::Tensor output;
    {
      const Tensor given = form == Form::old ? must(from_dlpack(at::toDLPack(input), ready))
                                             : import_versioned(input, ready);
      check(given.view().data == input.data_ptr(), "the input has another address");
      check(given.view().device == DeviceId::cuda(0), "the input is not on cuda:0");
      Request request;
      request.inputs.push_back({"input", given.view(), given.lease()});
      RequestedOutput kept;
      kept.name = "output";
      kept.placement = OutputPlacement::device;
      request.outputs.push_back(std::move(kept));
      const Response response = must(setup.model.infer(std::move(request)));
      const NamedTensor& answer = response.outputs[0];
      must(producer.ref().wait(answer.view.ready));  // the consumer's turn, on its own stream
      const Tensor taken(answer.view, answer.lease);
      output = form == Form::old ? at::fromDLPack(must(to_dlpack_unversioned(taken)))
                                 : export_versioned(taken);
      check(output.data_ptr() == answer.view.data, "the output has another address");
    }  // what it lies in is held by LibTorch's tensor alone
    check(setup.model.statistics().bound_in_place == bound + 1, "the input was copied");
    check(output.device() == input.device(), "the output is not on the GPU");
    const at::Tensor expected = input.mean({2, 3}, true);
    check(output.sizes() == expected.sizes(), "the output has another shape");
    check(at::allclose(output, expected, 1e-4, 1e-5),
          "the output differs: " + std::to_string((output - expected).abs().max().item<float>()));
    // The engine lets go of it soon after the answer.
    const TimePoint until = Clock::now() + std::chrono::seconds(20);
    while (input.use_count() != users && Clock::now() < until) std::this_thread::yield();
    check(input.use_count() == users, "a reference to the input was kept");
  }
}

/// LibTorch's memory as the target of an output.
void into_a_target(const Setup& setup) {
  const at::Tensor input = pictures(4);
  at::Tensor target = at::zeros({4, 3, 1, 1}, input.options());
  const Stream stream = must(setup.gpu().borrow_stream(current_stream()));
  const Event ready = must(setup.gpu().new_event(EventTiming::untimed));
  must(stream.ref().record(ready));
  const Tensor given = must(from_dlpack(at::toDLPack(input), ready));
  const Tensor place = must(from_dlpack(at::toDLPack(target), ready));
  Request request;
  request.inputs.push_back({"input", given.view(), given.lease()});
  RequestedOutput wanted;
  wanted.name = "output";
  wanted.placement = OutputPlacement::target;
  wanted.target = place.view();
  wanted.lease = place.lease();
  request.outputs.push_back(std::move(wanted));
  const Response response = must(setup.model.infer(std::move(request)));
  must(stream.ref().wait(response.outputs[0].view.ready));
  check(response.outputs[0].view.data == target.data_ptr(), "the answer lies elsewhere");
  check(at::allclose(target, input.mean({2, 3}, true), 1e-4, 1e-5), "the target differs");
}

/// A part of a larger tensor: rows with gaps between them.
void pitched_view(const Setup& setup) {
  const at::Tensor whole = at::randn({2, 3, 112, 150}, at::TensorOptions().device(at::kCUDA, 0));
  const at::Tensor input = whole.narrow(3, 17, 112);
  const Event ready = must(setup.gpu().new_event(EventTiming::untimed));
  must(must(setup.gpu().borrow_stream(current_stream())).ref().record(ready));
  const Tensor given = must(from_dlpack(at::toDLPack(input), ready));
  check(!given.view().contiguous(), "the view is contiguous");
  Request request;
  request.inputs.push_back({"input", given.view(), given.lease()});
  const Response response = must(setup.model.infer(std::move(request)));
  const at::Tensor found =
      at::from_blob(response.outputs[0].view.data, {2, 3, 1, 1}, at::TensorOptions());
  check(at::allclose(found, input.mean({2, 3}, true).cpu(), 1e-4, 1e-5), "the output differs");
}

/// On a stream of LibTorch's pool: its work is waited for by event alone.
void side_stream(const Setup& setup, Form form) {
#if WITH_STREAMS
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, 0);
  const c10::cuda::CUDAStreamGuard guard(stream);
  for (int i = 0; i < 20; ++i) {
    at::Tensor busy = at::randn({2048, 2048}, at::TensorOptions().device(at::kCUDA, 0));
    for (int k = 0; k < 20; ++k) busy = at::matmul(busy, busy).clamp(-1, 1);  // work before it
    round_trip(setup, form);
  }
#else
  (void)setup;
  (void)form;
  throw std::invalid_argument("no header of the CUDA runtime for LibTorch's streams");
#endif
}

int failures = 0;

/// std::invalid_argument: what it needs is not here.
template <class Body>
void run(const char* name, Body body) {
  try {
    body();
    std::printf("ran %s\n", name);
  } catch (const std::invalid_argument& missing) {
    std::printf("not checked %s: %s\n", name, missing.what());
  } catch (const std::exception& error) {
    std::printf("failed %s: %s\n", name, std::string(error.what()).substr(0, 500).c_str());
    ++failures;
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL.onnx CACHE_FOLDER\n", argv[0]);
    return 2;
  }
  try {
    const Setup setup = make_setup(argv[1], argv[2]);
    run("OldStructure", [&] { round_trip(setup, Form::old); });
    run("VersionedStructure", [&] { round_trip(setup, Form::versioned); });
    run("SideStream", [&] { side_stream(setup, Form::old); });
    run("SideStreamVersioned", [&] { side_stream(setup, Form::versioned); });
    run("IntoATarget", [&] { into_a_target(setup); });
    run("PitchedView", [&] { pitched_view(setup); });
  } catch (const std::exception& error) {
    std::printf("failed Setup: %s\n", error.what());
    return 1;
  }
  return failures == 0 ? 0 : 1;
}
