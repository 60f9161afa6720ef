#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>

#include "yolo_decode.h"

namespace millrace::plugins {
namespace {

// A block decodes kTile cells of one anchor of one image. Planes are read along the cells, scores
// are written along the classes; a square tile in shared memory turns one into the other.
constexpr int kTile = 32;
constexpr int kRows = 8;

__device__ float to_float(float x) { return x; }
__device__ float to_float(__half x) { return __half2float(x); }
__device__ float logistic(float x) { return 1.0F / (1.0F + expf(-x)); }

template <class T>
__device__ void decode_box(const T* first, float* box, std::int64_t cells, std::int64_t cell,
                           std::int64_t anchor, const YoloHead& head) {
  const auto plane = [&](int k) { return to_float(first[k * cells + cell]); };
  const float shift = 0.5F * (head.scale_xy - 1.0F);
  const auto column = static_cast<float>(cell % head.width);
  const auto row = static_cast<float>(cell / head.width);
  const float x = (logistic(plane(0)) * head.scale_xy - shift + column) * head.stride;
  const float y = (logistic(plane(1)) * head.scale_xy - shift + row) * head.stride;
  const float half_width = 0.5F * expf(plane(2)) * head.anchor[2 * anchor];
  const float half_height = 0.5F * expf(plane(3)) * head.anchor[2 * anchor + 1];
  box[0] = x - half_width;
  box[1] = y - half_height;
  box[2] = x + half_width;
  box[3] = y + half_height;
}

template <class T>
__global__ void __launch_bounds__(kTile* kRows)
    decode_kernel(const T* __restrict__ input, float* __restrict__ boxes,
                  float* __restrict__ scores, const __grid_constant__ YoloHead head) {
  __shared__ float tile[kTile][kTile + 1];
  __shared__ float objectness[kTile];
  const std::int64_t cells = head.height * head.width;
  const std::int64_t tiles = (cells + kTile - 1) / kTile;
  const std::int64_t planes = blockIdx.x / tiles;  // image * anchors + anchor
  const std::int64_t start = blockIdx.x % tiles * kTile;
  const std::int64_t cell = start + threadIdx.x;
  const bool inside = cell < cells;
  const T* const first = input + planes * (5 + head.classes) * cells;

  if (inside && threadIdx.y == 0) {
    decode_box(first, boxes + (planes * cells + cell) * 4, cells, cell, planes % head.anchors,
               head);
  }
  if (inside && threadIdx.y == 1) {
    objectness[threadIdx.x] = logistic(to_float(first[4 * cells + cell]));
  }
  __syncthreads();

  for (int base = 0; base < head.classes; base += kTile) {
    for (int k = threadIdx.y; k < kTile && base + k < head.classes; k += kRows) {
      if (inside) {
        const T logit = first[std::int64_t{5 + base + k} * cells + cell];
        tile[k][threadIdx.x] = objectness[threadIdx.x] * logistic(to_float(logit));
      }
    }
    __syncthreads();
    const int column = base + static_cast<int>(threadIdx.x);
    for (int k = threadIdx.y; k < kTile && start + k < cells; k += kRows) {
      if (column < head.classes) {
        scores[(planes * cells + start + k) * head.classes + column] = tile[threadIdx.x][k];
      }
    }
    __syncthreads();
  }
}

template <class T>
int launch(const void* input, float* boxes, float* scores, YoloHead head, std::int64_t blocks,
           cudaStream_t stream) {
  void* arguments[] = {&input, &boxes, &scores, &head};
  return cudaLaunchKernel(reinterpret_cast<const void*>(&decode_kernel<T>),
                          dim3(static_cast<unsigned>(blocks)), dim3(kTile, kRows), arguments, 0,
                          stream);
}

}  // namespace

int launch_yolo_decode(const void* input, float* boxes, float* scores, const YoloHead& head,
                       Precision precision, void* stream) {
  if (head.batch < 0 || head.height < 0 || head.width < 0 || head.anchors < 1 ||
      head.anchors > kMaxAnchors || head.classes < 0) {
    return cudaErrorInvalidValue;
  }
  const std::int64_t tiles = (head.height * head.width + kTile - 1) / kTile;
  const std::int64_t blocks = head.batch * head.anchors * tiles;
  if (blocks == 0) return cudaSuccess;
  if (blocks > std::numeric_limits<std::int32_t>::max()) return cudaErrorInvalidValue;
  const auto on = static_cast<cudaStream_t>(stream);
  return precision == Precision::fp16 ? launch<__half>(input, boxes, scores, head, blocks, on)
                                      : launch<float>(input, boxes, scores, head, blocks, on);
}

int load_yolo_decode() {
  for (const void* kernel : {reinterpret_cast<const void*>(&decode_kernel<float>),
                             reinterpret_cast<const void*>(&decode_kernel<__half>)}) {
    cudaFuncAttributes attributes;
    const int status = cudaFuncGetAttributes(&attributes, kernel);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace millrace::plugins
