// Loads a model and asks it what it sees in one image: a handwritten digit, 8x8 pixels of 0 to 16.
#include <algorithm>
#include <cstdio>

#include <millrace/engine.h>

constexpr float kImage[64] = {0, 0, 0,  9,  15, 1,  0, 0, 0, 0, 4,  16, 12, 0,  0,  0,
                              0, 0, 15, 14, 2,  11, 3, 0, 0, 4, 16, 9,  4,  16, 10, 0,
                              0, 9, 16, 11, 13, 16, 2, 0, 0, 0, 9,  16, 16, 14, 0,  0,
                              0, 0, 0,  8,  16, 6,  0, 0, 0, 0, 0,  9,  16, 2,  0,  0};

int main(int argc, char** argv) {
  auto engine = millrace::Engine::create();
  if (!engine) return std::puts(engine.error().message.c_str()), 1;
  millrace::ModelConfig config;
  config.path = argc > 1 ? argv[1] : "examples/digits/digits.onnx";
  auto model = engine->load(config);
  if (!model) return std::puts(model.error().message.c_str()), 1;

  millrace::Request request;
  request.inputs.push_back({"images", millrace::TensorView::of(kImage, {1, 1, 8, 8}), {}});
  auto answer = model->infer(std::move(request));
  if (!answer) return std::puts(answer.error().message.c_str()), 1;

  const float* probabilities = answer->outputs[0].view.as<float>();
  const auto digit = std::max_element(probabilities, probabilities + 10) - probabilities;
  std::printf("This is a %d (probability %.3f).\n", static_cast<int>(digit), probabilities[digit]);
}
