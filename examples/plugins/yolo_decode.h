// From a YOLO detector's raw head to boxes and scores.
//
// A head is a tensor [N, A * (5 + C), H, W]: for each of A anchors the planes x, y, width, height,
// objectness and one per class, all before any activation. With s the logistic function, the box of
// anchor a in cell (row, column) is, in pixels of the network's input,
//   centre x = (s(x) * scale_xy - (scale_xy - 1) / 2 + column) * stride, y alike with row,
//   width    = exp(width) * width of anchor a, height alike,
// and its score for a class is s(objectness) * s(class). Boxes are not clipped to the image.
#pragma once

#include <cstdint>

#include "precision.h"

namespace millrace::plugins {

inline constexpr std::int32_t kMaxAnchors = 16;

/// The shape of a head and how it is read.
struct YoloHead {
  std::int64_t batch = 0;    // N
  std::int64_t height = 0;   // H, in cells
  std::int64_t width = 0;    // W, in cells
  std::int32_t anchors = 0;  // A, at most kMaxAnchors
  std::int32_t classes = 0;  // C
  float stride = 0;          // pixels per cell
  float scale_xy = 1;
  float anchor[2 * kMaxAnchors] = {};  // width and height of each anchor, in pixels
};

/// Enqueues the decoding of `input`, [N, A * (5 + C), H, W] of type `precision`, on `stream`, a
/// `cudaStream_t` of the current device, and returns without waiting; allocates nothing, and may be
/// captured into a graph. `boxes` gets FP32 [N, A * H * W, 4], the corners x1, y1, x2, y2, and
/// `scores` FP32 [N, A * H * W, C]; box (a * H + row) * W + column is anchor a's. All three are
/// memory of the device, are the caller's and do not overlap. Returns 0, else a `cudaError_t`:
/// that of the launch, or cudaErrorInvalidValue for a head that cannot be.
[[nodiscard]] int launch_yolo_decode(const void* input, float* boxes, float* scores,
                                     const YoloHead& head, Precision precision, void* stream);

/// Loads the kernels of `launch_yolo_decode` onto the current device, so that no launch has to. May
/// halt the device. Returns 0 or a `cudaError_t`.
[[nodiscard]] int load_yolo_decode();

/// What `launch_yolo_decode` computes, on the host and in FP32.
void yolo_decode_host(const float* input, float* boxes, float* scores,
                      const YoloHead& head) noexcept;

}  // namespace millrace::plugins
