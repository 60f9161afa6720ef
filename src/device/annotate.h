// Names for what goes on, which a tool that watches the process (Nsight Systems) shows on its time
// line beside the device's work. The names go through NVTX; without a tool nothing is done but to
// look at one flag.
#pragma once

#include <atomic>
#include <string>

#include "base/text.h"

namespace millrace {

/// Whether a tool listens. Set by `start_annotations` alone.
extern std::atomic<bool> annotations_on;

/// Looks for a tool, which cannot come later. Called before what is to be seen; again has no
/// effect. Thread-safe.
void start_annotations();

/// A range on the calling thread's line, from here to the end of the scope. Ranges nest.
class Annotation {
 public:
  template <class... Pieces>
  explicit Annotation(const Pieces&... pieces) {
    if (annotations_on.load(std::memory_order_relaxed)) [[unlikely]] {
      begin(concat(pieces...));
    }
  }
  ~Annotation() {
    if (open_) [[unlikely]] {
      end();
    }
  }
  Annotation(const Annotation&) = delete;
  Annotation& operator=(const Annotation&) = delete;

 private:
  void begin(const std::string& text) noexcept;
  static void end() noexcept;
  bool open_ = false;
};

}  // namespace millrace
