#include "kernels/gather.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if MILLRACE_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace millrace {
namespace {

using Bytes = std::vector<std::uint8_t>;

/// One implementation under test: gathers from, or scatters into, memory that it can reach, by way
/// of host memory.
class Implementation {
 public:
  virtual ~Implementation() = default;
  /// A block of memory that both the test and the implementation can touch, aligned to 256 bytes.
  virtual std::uint8_t* allocate(std::size_t bytes) = 0;
  virtual Result<void> gather(void* destination, std::span<const GatherPiece> pieces) = 0;
  virtual Result<void> scatter(const void* source, std::span<const ScatterPiece> pieces) = 0;
};

class OnHost final : public Implementation {
 public:
  std::uint8_t* allocate(std::size_t bytes) override {
    blocks_.push_back(std::make_unique<Block[]>(bytes / sizeof(Block) + 1));
    return blocks_.back()[0].byte.data();
  }
  Result<void> gather(void* destination, std::span<const GatherPiece> pieces) override {
    gather_host(destination, pieces);
    return {};
  }
  Result<void> scatter(const void* source, std::span<const ScatterPiece> pieces) override {
    scatter_host(source, pieces);
    return {};
  }

 private:
  struct alignas(256) Block {
    std::array<std::uint8_t, 256> byte;
  };
  std::vector<std::unique_ptr<Block[]>> blocks_;
};

#if MILLRACE_WITH_CUDA
// Pinned host memory stands for both sides: the kernels read and write it through the same
// addresses.
class OnCuda final : public Implementation {
 public:
  OnCuda() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  ~OnCuda() override {
    cudaStreamSynchronize(stream_);
    for (void* block : blocks_) cudaFreeHost(block);
    cudaStreamDestroy(stream_);
  }
  OnCuda(const OnCuda&) = delete;
  OnCuda& operator=(const OnCuda&) = delete;

  std::uint8_t* allocate(std::size_t bytes) override {
    void* block = nullptr;
    EXPECT_EQ(cudaHostAlloc(&block, bytes, cudaHostAllocPortable), cudaSuccess);
    blocks_.push_back(block);
    return static_cast<std::uint8_t*>(block);
  }
  Result<void> gather(void* destination, std::span<const GatherPiece> pieces) override {
    Result<void> result = gather_cuda(destination, pieces, stream_);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return result;
  }
  Result<void> scatter(const void* source, std::span<const ScatterPiece> pieces) override {
    Result<void> result = scatter_cuda(source, pieces, stream_);
    EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    return result;
  }

 private:
  cudaStream_t stream_ = nullptr;
  std::vector<void*> blocks_;
};
#endif

class Gather : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (GetParam() == std::string("host")) {
      implementation_ = std::make_unique<OnHost>();
      return;
    }
#if MILLRACE_WITH_CUDA
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) == cudaSuccess && gpus > 0) {
      implementation_ = std::make_unique<OnCuda>();
      return;
    }
    GTEST_SKIP() << "NOT CHECKED: needs 1 GPU, this machine has none";
#else
    GTEST_SKIP() << "NOT CHECKED: built without CUDA";
#endif
  }

  Implementation& it() { return *implementation_; }

  /// Gathers pieces of these sizes and compares with a copy made byte by byte. Piece i starts
  /// `source_skew` bytes after an aligned address, and `gap` bytes after the end of the piece
  /// before it.
  void check(const std::vector<std::size_t>& sizes, std::size_t source_skew, std::size_t gap) {
    std::mt19937 random(7);
    std::vector<GatherPiece> pieces;
    std::size_t offset = gap;
    for (const std::size_t size : sizes) {
      std::uint8_t* source = it().allocate(size + source_skew + 1) + source_skew;
      std::generate_n(source, size, [&] { return static_cast<std::uint8_t>(random()); });
      pieces.push_back({source, offset, size});
      offset += size + gap;
    }
    Bytes expected(offset, kUntouched);
    for (const GatherPiece& piece : pieces) {
      const auto* source = static_cast<const std::uint8_t*>(piece.source);
      std::copy_n(source, piece.bytes,
                  expected.begin() + static_cast<std::ptrdiff_t>(piece.offset_bytes));
    }

    std::uint8_t* block = it().allocate(offset);
    std::fill_n(block, offset, kUntouched);
    ASSERT_TRUE(it().gather(block, pieces).ok());
    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), block));

    std::vector<ScatterPiece> back;
    for (const GatherPiece& piece : pieces) {
      std::uint8_t* copy = it().allocate(piece.bytes + source_skew + 2) + source_skew;
      std::fill_n(copy, piece.bytes + 1, kUntouched);
      back.push_back({copy, piece.offset_bytes, piece.bytes});
    }
    ASSERT_TRUE(it().scatter(block, back).ok());
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const auto* copy = static_cast<const std::uint8_t*>(back[i].destination);
      ASSERT_EQ(std::memcmp(pieces[i].source, copy, pieces[i].bytes), 0) << "piece " << i;
      ASSERT_EQ(copy[pieces[i].bytes], kUntouched) << "written past the end of piece " << i;
    }
  }

  static constexpr std::uint8_t kUntouched = 0xA5;

 private:
  std::unique_ptr<Implementation> implementation_;
};

TEST_P(Gather, JoinsEqualPiecesWithoutAGap) { check(std::vector<std::size_t>(64, 4096), 0, 0); }

TEST_P(Gather, LeavesWhatLiesBetweenPieces) { check({16, 32, 48, 64}, 0, 16); }

TEST_P(Gather, CopiesEveryMisalignment) {
  for (std::size_t skew = 0; skew < 17; ++skew) {
    for (std::size_t gap = 0; gap < 17; ++gap) {
      check({1, 2, 3, 15, 16, 17, 31, 33, 100, 255}, skew, gap);
      if (HasFatalFailure()) FAIL() << "source skew " << skew << ", gap " << gap;
    }
  }
}

TEST_P(Gather, CopiesLargePieces) {
  check({150'528, 602'112, 1'000'003}, 0, 0);
  check({150'528, 602'112, 1'000'003}, 5, 3);
}

TEST_P(Gather, TakesMorePiecesThanOneLaunchHolds) {
  check(std::vector<std::size_t>(1000, 24), 0, 8);
  check(std::vector<std::size_t>(128, 24), 0, 8);
  check(std::vector<std::size_t>(129, 24), 0, 8);
}

TEST_P(Gather, IgnoresEmptyPieces) {
  check({0, 16, 0, 0, 8, 0}, 0, 0);
  const GatherPiece nothing{};
  EXPECT_TRUE(it().gather(nullptr, {&nothing, 1}).ok());
  EXPECT_TRUE(it().gather(nullptr, {}).ok());
}

INSTANTIATE_TEST_SUITE_P(Kernels, Gather, ::testing::Values("host", "cuda"),
                         [](const auto& test) { return std::string(test.param); });

TEST(GatherCuda, RefusesTheDefaultStream) {
  std::uint8_t byte = 0;
  const GatherPiece piece{&byte, 0, 1};
  const Result<void> result = gather_cuda(&byte, {&piece, 1}, nullptr);
  ASSERT_FALSE(result.ok());
#if MILLRACE_WITH_CUDA
  EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
#else
  EXPECT_EQ(result.error().code, ErrorCode::unsupported);
#endif
}

}  // namespace
}  // namespace millrace
