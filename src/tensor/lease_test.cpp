#include <millrace/lease.h>

#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <millrace/log.h>

namespace millrace {
namespace {

TEST(Lease, ReleasesWithItsLastCopy) {
  int released = 0;
  Lease lease = Lease::on_release([&] { ++released; });
  EXPECT_TRUE(static_cast<bool>(lease));
  {
    const Lease copy = lease;
    Lease moved = std::move(lease);
    EXPECT_FALSE(static_cast<bool>(lease));  // NOLINT(bugprone-use-after-move)
    moved.reset();
    moved.reset();
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
}

TEST(Lease, AssignmentReleasesWhatWasHeld) {
  int first = 0, second = 0;
  Lease lease = Lease::on_release([&] { ++first; });
  lease = Lease::on_release([&] { ++second; });
  EXPECT_EQ(first, 1);
  Lease& alias = lease;
  lease = alias;
  EXPECT_EQ(second, 0);
  lease = {};
  EXPECT_EQ(second, 1);
}

TEST(Lease, SharesOwnership) {
  auto owner = std::make_shared<int>(1);
  const std::weak_ptr<int> watch = owner;
  Lease lease = Lease::share(std::move(owner));
  EXPECT_FALSE(watch.expired());
  lease.reset();
  EXPECT_TRUE(watch.expired());
}

TEST(Lease, ACallbackThatThrowsIsLogged) {
  std::string line;
  log_to([&](LogLevel, std::string_view message) { line = message; });
  Lease::on_release([] { throw std::runtime_error("gone already"); }).reset();
  log_to({});
  EXPECT_EQ(line, "a release callback threw: gone already");
}

class Recycled final : public Lease::Counted {
 public:
  void dispose() noexcept override {
    ++disposed;
    renew();
  }
  int disposed = 0;
};

TEST(Lease, CountedObjectsCanBeUsedAgain) {
  Recycled object;
  for (int i = 1; i <= 3; ++i) {
    Lease lease = Lease::adopt(&object);
    Lease copy = lease;
    lease.reset();
    EXPECT_EQ(object.disposed, i - 1);
    copy.reset();
    EXPECT_EQ(object.disposed, i);
  }
}

TEST(Lease, IsReleasedOnceByManyThreads) {
  for (int round = 0; round < 100; ++round) {
    int released = 0;  // not atomic: written after all other holders are done
    int touched[4] = {};
    Lease lease = Lease::on_release([&] {
      for (const int t : touched) released += t;
    });
    std::vector<std::thread> threads;
    for (int& t : touched) {
      threads.emplace_back([&t, copy = lease]() mutable {
        const Lease more = copy;
        copy.reset();
        t = 1;
      });
    }
    lease.reset();
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(released, 4);
  }
}

}  // namespace
}  // namespace millrace
