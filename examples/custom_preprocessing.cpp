// Pre-processing of your own, and answers where you want them.
//
// Pictures come as bytes, 32x32 grey values as an image decoder gives them. Two threads of the
// caller's turn them into what the model takes while the engine computes the pictures before; the
// probabilities are written straight into one table of the caller's.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <thread>
#include <vector>

#include <millrace/engine.h>

namespace {

using namespace millrace;

constexpr std::size_t kPictures = 400;
constexpr std::size_t kSide = 32;  // of a picture, in pixels
constexpr std::size_t kCells = 8;  // of what the model takes: each cell is the mean of 4x4 pixels
constexpr std::size_t kClasses = 10;
using Picture = std::array<std::uint8_t, kSide * kSide>;

struct Sample {
  int label;
  std::string_view ink;  // 8x8 cells, '0' (none) to 'g' (16)
};
constexpr Sample kSamples[] = {
    {0,
     "00aeb300"
     "04gd6e10"
     "04g20b70"
     "08g00a50"
     "08g00e40"
     "08g01g10"
     "04g1bf00"
     "00bgc300"},
    {1,
     "0000ed10"
     "0005gg20"
     "000egc00"
     "01aggc00"
     "03ceg900"
     "0005gf00"
     "0004ge00"
     "0001dg10"},
    {3,
     "009gd600"
     "0065gg00"
     "0008f500"
     "0005e300"
     "00009f20"
     "00000bc0"
     "0048bfc0"
     "00bec800"},
    {4,
     "0009f100"
     "004gc000"
     "00fe2b30"
     "04g94ga0"
     "09gbdg20"
     "009gge00"
     "0008g600"
     "0009g200"},
    {7,
     "0009fc00"
     "00477e00"
     "00000d30"
     "0498ad10"
     "04gfgg60"
     "0000e300"
     "0009c000"
     "000b7000"},
};

/// What a scanner might deliver: a sample, drawn at four times its size.
Picture draw(const Sample& sample) {
  Picture picture{};
  for (std::size_t y = 0; y < kSide; ++y) {
    for (std::size_t x = 0; x < kSide; ++x) {
      const char cell = sample.ink[y / 4 * kCells + x / 4];
      const int ink = cell <= '9' ? cell - '0' : cell - 'a' + 10;
      picture[y * kSide + x] = static_cast<std::uint8_t>(ink * 255 / 16);
    }
  }
  return picture;
}

/// 32x32 bytes to 8x8 numbers from 0 to 16.
void preprocess(const Picture& picture, float* cells) {
  for (std::size_t y = 0; y < kCells; ++y) {
    for (std::size_t x = 0; x < kCells; ++x) {
      int sum = 0;
      for (std::size_t i = 0; i < 16; ++i) {
        sum += picture[(y * 4 + i / 4) * kSide + x * 4 + i % 4];
      }
      cells[y * kCells + x] = static_cast<float>(sum) / (16 * 255.0F) * 16;
    }
  }
}

int fail(const Error& error) {
  std::fprintf(stderr, "custom_preprocessing: %s\n", error.message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Picture> pictures(kPictures);
  for (std::size_t i = 0; i < kPictures; ++i) pictures[i] = draw(kSamples[i % std::size(kSamples)]);
  std::vector<float> cells(kPictures * kCells * kCells);
  std::vector<float> table(kPictures * kClasses);  // all answers, one row for each picture

  Result<Engine> engine = Engine::create();
  if (!engine) return fail(engine.error());
  ModelConfig config;
  config.path = argc > 1 ? argv[1] : "examples/digits/digits.onnx";
  const Result<Model> model = engine->load(config);
  if (!model) return fail(model.error());

  std::vector<Future> answers(kPictures);
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < kPictures; i = next++) {
      float* input = &cells[i * kCells * kCells];
      preprocess(pictures[i], input);
      Request request;
      request.inputs.push_back({"images", TensorView::of(input, {1, 1, kCells, kCells}), {}});
      RequestedOutput wanted;
      wanted.name = "probabilities";
      wanted.placement = OutputPlacement::target;
      wanted.target = TensorView::of(&table[i * kClasses], {1, kClasses});
      request.outputs.push_back(std::move(wanted));
      answers[i] = model->submit(std::move(request));  // returns at once
    }
  };
  std::thread first(work);
  std::thread second(work);
  first.join();
  second.join();

  std::size_t in_place = 0;
  std::size_t right = 0;
  for (std::size_t i = 0; i < kPictures; ++i) {
    const Result<Response> answer = answers[i].get();
    if (!answer) return fail(answer.error());
    const float* row = &table[i * kClasses];
    in_place += answer->outputs[0].view.data == row;
    right += std::max_element(row, row + kClasses) - row == kSamples[i % std::size(kSamples)].label;
  }
  std::printf("%zu of %zu answers are in the caller's table\n", in_place, kPictures);
  std::printf("%zu of %zu digits were read right\n", right, kPictures);
}
