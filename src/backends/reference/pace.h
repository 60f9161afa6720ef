// Ways to spend time, some of which another thread can cut short.
#pragma once

#include <chrono>

namespace millrace::reference {

/// Ends what the running batch of a lane waits for. One batch at a time, any number of ending
/// threads.
class Interrupt {
 public:
  /// A batch starts.
  void begin();
  /// The batch is over. Returns whether it was ended.
  bool finish();
  /// Ends the running batch; does nothing when there is none.
  void end();

 private:
  friend void sleep_until(std::chrono::steady_clock::time_point until, Interrupt* interrupt);
  friend void compute_for(std::chrono::nanoseconds time, Interrupt* interrupt);
  friend void hang(Interrupt* interrupt);

  // Both under the mutex that all interrupts share.
  bool running_ = false;
  bool ended_ = false;
};

// `interrupt` may be null: then nothing cuts them short, and they cost no lock.

void sleep_until(std::chrono::steady_clock::time_point until, Interrupt* interrupt);
/// Computes until the calling thread has spent that much processor time.
void compute_for(std::chrono::nanoseconds time, Interrupt* interrupt);
/// Until `release_hung_reference_batches` is called.
void hang(Interrupt* interrupt);

}  // namespace millrace::reference
