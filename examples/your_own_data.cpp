// Your own memory, in and out without a copy, by DLPack: the structure in which array libraries
// hand tensors to each other. Here the "other library" is the class Pixels; it could be NumPy,
// PyTorch, a camera.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>

#include <millrace/dlpack.h>
#include <millrace/engine.h>

#if __has_include(<dlpack/dlpack.h>)
#include <dlpack/dlpack.h>
#else
// What dlpack.h of version 1 declares, as far as it is used here.
enum DLDeviceType : std::int32_t { kDLCPU = 1 };
enum DLDataTypeCode : std::uint8_t { kDLFloat = 2 };
struct DLPackVersion {
  std::uint32_t major, minor;
};
struct DLDevice {
  DLDeviceType device_type;
  std::int32_t device_id;
};
struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  std::uint64_t flags;
  DLTensor dl_tensor;
};
#endif

namespace {

using namespace millrace;

int fail(const Error& error) {
  std::fprintf(stderr, "your_own_data: %s\n", error.message.c_str());
  return 1;
}

/// The caller's own tensor: pixels that nobody may free before all users are done with them.
class Pixels {
 public:
  static int alive;

  Pixels() { ++alive; }
  ~Pixels() { --alive; }

  /// Gives up ownership: from now on the tensor's deleter decides when the pixels go.
  static DLManagedTensorVersioned* hand_over(std::unique_ptr<Pixels> pixels) {
    auto* managed = new DLManagedTensorVersioned{};
    managed->version = {1, 0};
    managed->deleter = [](DLManagedTensorVersioned* self) {
      delete static_cast<Pixels*>(self->manager_ctx);
      delete self;
    };
    DLTensor& tensor = managed->dl_tensor;
    tensor.data = pixels->values.data();
    tensor.device = {kDLCPU, 0};
    tensor.ndim = static_cast<std::int32_t>(pixels->shape.size());
    tensor.dtype = {kDLFloat, 32, 1};
    tensor.shape = pixels->shape.data();
    tensor.strides = pixels->strides.data();
    managed->manager_ctx = pixels.release();
    return managed;
  }

  std::array<float, 64> values{0, 0, 0,  9,  15, 1,  0, 0, 0, 0, 4,  16, 12, 0,  0,  0,
                               0, 0, 15, 14, 2,  11, 3, 0, 0, 4, 16, 9,  4,  16, 10, 0,
                               0, 9, 16, 11, 13, 16, 2, 0, 0, 0, 9,  16, 16, 14, 0,  0,
                               0, 0, 0,  8,  16, 6,  0, 0, 0, 0, 0,  9,  16, 2,  0,  0};
  std::array<std::int64_t, 4> shape{1, 1, 8, 8};
  std::array<std::int64_t, 4> strides{64, 64, 8, 1};
};
int Pixels::alive = 0;

}  // namespace

int main(int argc, char** argv) {
  Result<Engine> engine = Engine::create();
  if (!engine) return fail(engine.error());
  ModelConfig config;
  config.path = argc > 1 ? argv[1] : "examples/digits/digits.onnx";
  const Result<Model> model = engine->load(config);
  if (!model) return fail(model.error());

  // In: the request holds the pixels by a lease and the model reads them where they lie.
  auto pixels = std::make_unique<Pixels>();
  const void* address = pixels->values.data();
  DLManagedTensorVersioned* managed = Pixels::hand_over(std::move(pixels));
  Result<Tensor> image = from_dlpack(managed);
  if (!image) {
    managed->deleter(managed);  // what was refused stays the caller's
    return fail(image.error());
  }
  std::printf("imported: %s, same address: %s\n", to_string(image->shape()).c_str(),
              image->view().data == address ? "yes" : "no");
  Request request;
  request.inputs.push_back({"images", image->view(), image->lease()});
  *image = Tensor();  // the request's lease is now the only one
  Result<Response> answer = model->infer(std::move(request));
  if (!answer) return fail(answer.error());
  std::printf("batches that read the input where it lay: %d of %d\n",
              static_cast<int>(model->statistics().bound_in_place),
              static_cast<int>(model->statistics().batches));
  std::printf("pixels alive after the answer: %d\n", Pixels::alive);

  // Out: the consumer gets the engine's memory, which goes back to it when the consumer is done.
  NamedTensor output = std::move(answer->outputs[0]);
  const void* computed = output.view.data;
  Result<DLManagedTensorVersioned*> exported = to_dlpack(Tensor(output.view, output.lease));
  if (!exported) return fail(exported.error());
  output.lease.reset();
  const DLTensor& tensor = (*exported)->dl_tensor;
  const auto* probabilities = static_cast<const float*>(tensor.data);
  const auto digit = std::max_element(probabilities, probabilities + 10) - probabilities;
  std::printf("exported: same address: %s; the digit is a %d\n",
              tensor.data == computed ? "yes" : "no", static_cast<int>(digit));
  (*exported)->deleter(*exported);
}
