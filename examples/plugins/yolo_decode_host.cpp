#include <cmath>

#include "yolo_decode.h"

namespace millrace::plugins {
namespace {

float logistic(float x) { return 1.0F / (1.0F + std::exp(-x)); }

}  // namespace

void yolo_decode_host(const float* input, float* boxes, float* scores,
                      const YoloHead& head) noexcept {
  const std::int64_t cells = head.height * head.width;
  const float shift = 0.5F * (head.scale_xy - 1.0F);
  for (std::int64_t planes = 0; planes < head.batch * head.anchors; ++planes) {
    const std::int64_t anchor = planes % head.anchors;
    const float* const first = input + planes * (5 + head.classes) * cells;
    for (std::int64_t cell = 0; cell < cells; ++cell) {
      const auto plane = [&](std::int64_t k) { return first[k * cells + cell]; };
      const auto column = static_cast<float>(cell % head.width);
      const std::int64_t whole_rows = cell / head.width;
      const auto row = static_cast<float>(whole_rows);
      const float x = (logistic(plane(0)) * head.scale_xy - shift + column) * head.stride;
      const float y = (logistic(plane(1)) * head.scale_xy - shift + row) * head.stride;
      const float half_width = 0.5F * std::exp(plane(2)) * head.anchor[2 * anchor];
      const float half_height = 0.5F * std::exp(plane(3)) * head.anchor[2 * anchor + 1];
      float* const box = boxes + (planes * cells + cell) * 4;
      box[0] = x - half_width;
      box[1] = y - half_height;
      box[2] = x + half_width;
      box[3] = y + half_height;
      const float objectness = logistic(plane(4));
      float* const score = scores + (planes * cells + cell) * head.classes;
      for (std::int64_t k = 0; k < head.classes; ++k) {
        score[k] = objectness * logistic(plane(5 + k));
      }
    }
  }
}

}  // namespace millrace::plugins
