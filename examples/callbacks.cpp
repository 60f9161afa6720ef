// Many requests without a thread for each: callbacks, and what becomes of a request that is taken
// back or comes too late. Every request is answered exactly once, by an answer or by an error.
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <optional>

#include <millrace/engine.h>

namespace {

using namespace millrace;

constexpr int kRequests = 5000;

int fail(const Error& error) {
  std::fprintf(stderr, "callbacks: %s\n", error.message.c_str());
  return 1;
}

/// Counts answers. Callbacks run on a thread of the engine: they count, and leave the rest to
/// others.
class Tally {
 public:
  void add(const Result<Response>& response) {
    std::lock_guard lock(mutex_);
    if (response) {
      ++succeeded_;
      items_in_batches_ += response->batch_items;
    } else if (response.error().code == ErrorCode::cancelled) {
      ++cancelled_;
    } else if (response.error().code == ErrorCode::deadline_exceeded) {
      ++expired_;
    } else {
      ++failed_;
      std::fprintf(stderr, "callbacks: %s\n", response.error().message.c_str());
    }
    ++answered_;
    changed_.notify_all();
  }
  void wait_for(int answers) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return answered_ >= answers; });
  }
  void print(const char* title) {
    std::lock_guard lock(mutex_);
    std::printf("%s: %d succeeded, %d cancelled, %d expired, %d failed", title, succeeded_,
                cancelled_, expired_, failed_);
    if (succeeded_ > 0) {
      std::printf("; mean batch %.1f", static_cast<double>(items_in_batches_) / succeeded_);
    }
    std::printf("\n");
  }
  [[nodiscard]] Callback callback() {
    return [this](const Result<Response>& response, bool /*last*/) { add(response); };
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  int answered_ = 0, succeeded_ = 0, cancelled_ = 0, expired_ = 0, failed_ = 0;
  std::int64_t items_in_batches_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  // Before the engine, and so alive for as long as it is: where it calls back, and what it reads.
  Tally digits_tally;
  Tally slow_tally;
  const std::array<float, 64> image{};
  const std::array<float, 16> numbers{};

  Result<Engine> engine = Engine::create();
  if (!engine) return fail(engine.error());
  ModelConfig config;
  config.path = argc > 1 ? argv[1] : "examples/digits/digits.onnx";
  const Result<Model> digits = engine->load(config);
  if (!digits) return fail(digits.error());

  // Many at once. Those that wait together are computed together.
  for (int i = 0; i < kRequests; ++i) {
    Request request;
    request.inputs.push_back({"images", TensorView::of(image.data(), {1, 1, 8, 8}), {}});
    const Result<Ticket> ticket = digits->submit(std::move(request), digits_tally.callback());
    if (!ticket) return fail(ticket.error());  // then the callback will not be called
  }

  // One at a time, 100 ms each, on one lane: time enough to change one's mind.
  ModelConfig slow_config;
  slow_config.name = "slow";
  slow_config.path = "reference:busy?shape=16&batch_us=100000";
  slow_config.batching.max_items = 1;
  slow_config.lanes = 1;
  slow_config.slots = 1;
  const Result<Model> slow = engine->load(slow_config);
  if (!slow) return fail(slow.error());
  const auto submit_slow = [&](std::optional<TimePoint> deadline) {
    Request request;
    request.inputs.push_back(
        {slow->info().inputs[0].name, TensorView::of(numbers.data(), {1, 16}), {}});
    request.deadline = deadline;
    return slow->submit(std::move(request), slow_tally.callback());
  };
  const Result<Ticket> first = submit_slow({});
  if (!first) return fail(first.error());
  const Result<Ticket> hasty = submit_slow(Clock::now() + std::chrono::milliseconds(20));
  if (!hasty) return fail(hasty.error());
  Result<Ticket> unwanted = submit_slow({});
  if (!unwanted) return fail(unwanted.error());
  std::printf("taken back: %s\n", unwanted->cancel() ? "yes" : "no, it had started");

  digits_tally.wait_for(kRequests);
  slow_tally.wait_for(3);
  digits_tally.print("digits");
  slow_tally.print("slow");
}
