#include "server/http/socket_events.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

namespace millrace::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// Two sockets, connected to each other.
struct Pair {
  Pair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0); }
  Pair(const Pair&) = delete;
  ~Pair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void send() const { EXPECT_EQ(::send(ends[1], "x", 1, 0), 1); }
  void end() const { ::shutdown(ends[1], SHUT_WR); }

  int ends[2] = {-1, -1};
  std::vector<std::uint32_t> told;  // of the first end
};

class SocketEventsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Result<void> started = events_.start(
        [](void* who, std::uint32_t events) {
          static_cast<Pair*>(who)->told.push_back(events & (EPOLLIN | EPOLLRDHUP));
          if ((events & EPOLLRDHUP) != 0) throw std::runtime_error("on purpose");
        },
        [this] { ++stretches_; });
    ASSERT_TRUE(started.ok()) << started.error().message;
  }
  /// Without what a socket says of itself when it is added: that it can be written.
  void add(Pair& pair) {
    ASSERT_TRUE(events_.add(pair.ends[0], &pair));
    while (events_.poll()) {
    }
    pair.told.clear();
    stretches_ = 0;
  }

  /// Whether nothing is left that the context waits for, after some looks.
  bool ends() {
    constexpr int kLooks = 100;
    for (int i = 0; i < kLooks; ++i) context_.poll();
    return context_.stopped();
  }

  boost::asio::io_context context_{1};
  SocketEvents events_{context_};
  int stretches_ = 0;
};

TEST_F(SocketEventsTest, TellsOnceOfEachChange) {
  Pair pair;
  add(pair);
  EXPECT_FALSE(events_.poll());
  pair.send();
  EXPECT_TRUE(events_.poll());
  EXPECT_FALSE(events_.poll()) << "what came was not read, but that is nothing new";
  EXPECT_THAT(pair.told, ElementsAre(EPOLLIN));
  pair.send();
  EXPECT_TRUE(events_.poll());
  EXPECT_THAT(pair.told, ElementsAre(EPOLLIN, EPOLLIN));
  EXPECT_EQ(stretches_, 2);
}

TEST_F(SocketEventsTest, TellsAllOfThemAlthoughOneThrows) {
  Pair bad, good;
  add(bad);
  add(good);
  bad.end();
  good.send();
  EXPECT_TRUE(events_.poll());
  EXPECT_THAT(bad.told, ElementsAre(EPOLLIN | EPOLLRDHUP));
  EXPECT_THAT(good.told, ElementsAre(EPOLLIN));
  EXPECT_EQ(stretches_, 1);
}

TEST_F(SocketEventsTest, IsPartOfTheContext) {
  Pair pair;
  add(pair);
  pair.send();
  while (pair.told.empty()) context_.run_one();
  boost::asio::post(context_, [&pair] { pair.send(); });
  while (pair.told.size() < 2) context_.run_one();
  events_.stop();
  EXPECT_TRUE(ends());
  pair.send();
  EXPECT_EQ(pair.told.size(), 2U);
}

TEST_F(SocketEventsTest, StopsAlthoughSomethingHasJustCome) {
  Pair pair;
  add(pair);
  pair.send();
  boost::asio::post(context_, [this] {
    // By now the context may have looked, and be about to tell.
    boost::asio::post(context_, [this] { events_.stop(); });
  });
  EXPECT_TRUE(ends());
}

TEST_F(SocketEventsTest, ForgetsWhatIsRemovedAlthoughACopyIsOpen) {
  Pair pair;
  add(pair);
  const int copy = ::dup(pair.ends[0]);
  events_.remove(pair.ends[0]);
  pair.send();
  EXPECT_FALSE(events_.poll());
  EXPECT_THAT(pair.told, IsEmpty());
  ::close(copy);
}

}  // namespace
}  // namespace millrace::server
