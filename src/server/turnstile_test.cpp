#include "server/turnstile.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include <gmock/gmock.h>

#include "server/listening.h"

namespace millrace::server {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

using ::testing::StartsWith;

const Absence kAway{"it is away", 7, 3};

TEST(AbsentAnswer, TellsWhenToComeBack) {
  const std::string answer = absent_answer("POST /v2/models/a/infer HTTP/1.1\r\n\r\n", kAway);
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503 Service Unavailable\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\nRetry-After: 7\r\n"));
  EXPECT_THAT(answer, HasSubstr("\r\nContent-Length: 22\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\n{\"error\":\"it is away\"}"));
}

TEST(AbsentAnswer, IsTheSameForWhatIsNoRequest) {
  for (const char* const head :
       {"", "\r\n\r\n", "GET\r\n\r\n", "GET \r\n\r\n", " ", "\x16\x03\x01"}) {
    EXPECT_THAT(absent_answer(head, kAway), StartsWith("HTTP/1.1 503")) << head;
  }
}

TEST(AbsentAnswer, HealthAndMetricsAreReal) {
  EXPECT_THAT(absent_answer("GET /v2/health/live HTTP/1.1\r\n\r\n", kAway),
              StartsWith("HTTP/1.1 200"));
  const std::string ready = absent_answer("GET /v2/health/ready?x=1 HTTP/1.1\r\n\r\n", kAway);
  EXPECT_THAT(ready, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(ready, EndsWith("{\"ready\":false}"));
  const std::string metrics = absent_answer("GET /metrics HTTP/1.1\r\n\r\n", kAway);
  EXPECT_THAT(metrics, HasSubstr("\nmillrace_worker_restarts_total 3\n"));
  EXPECT_THAT(metrics, HasSubstr("\nmillrace_ready 0\n"));
}

class TurnstileTest : public ::testing::Test {
 protected:
  [[nodiscard]] Descriptor connect_to() const {
    Descriptor out(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(*port_of(listener_)));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(out.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    return out;
  }
  /// What the other side got until it was closed; the turnstile goes on meanwhile.
  std::string read_to_end(const Descriptor& connection) {
    std::string out;
    for (;;) {
      turnstile_.go_on(kAway, Clock::now());
      std::array<char, 512> buffer;
      const ssize_t bytes = recv(connection.number(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (bytes == 0) return out;
      if (bytes > 0) out.append(buffer.data(), static_cast<std::size_t>(bytes));
      if (bytes < 0 && errno != EAGAIN) return out + " (cut off)";
    }
  }
  static void send_text(const Descriptor& connection, std::string_view text) {
    ASSERT_EQ(send(connection.number(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  Descriptor listener_ = *listen_on("127.0.0.1", 0);
  Turnstile turnstile_;
};

TEST_F(TurnstileTest, AnswersAHeadThatComesInPieces) {
  const Descriptor client = connect_to();
  turnstile_.accept(listener_.number(), true);
  send_text(client, "GET /x HT");
  turnstile_.go_on(kAway, Clock::now());
  EXPECT_FALSE(turnstile_.empty());
  send_text(client, "TP/1.1\r\nA: b\r\n\r\nand a body");
  EXPECT_THAT(read_to_end(client), EndsWith("{\"error\":\"it is away\"}"));
}

TEST_F(TurnstileTest, ClosesWhatIsNoHttp) {
  const Descriptor client = connect_to();
  turnstile_.accept(listener_.number(), false);
  EXPECT_TRUE(turnstile_.empty());
  EXPECT_EQ(read_to_end(client), "");
}

TEST_F(TurnstileTest, ClosesWhoSaysNothing) {
  const Descriptor client = connect_to();
  turnstile_.accept(listener_.number(), true);
  turnstile_.go_on(kAway, Clock::now() + std::chrono::hours(1));
  EXPECT_TRUE(turnstile_.empty());
  EXPECT_EQ(read_to_end(client), "");
}

TEST_F(TurnstileTest, AHeadWithoutAnEndIsAnsweredToo) {
  const Descriptor client = connect_to();
  turnstile_.accept(listener_.number(), true);
  send_text(client, std::string(std::size_t{20} << 10, 'x'));
  EXPECT_THAT(read_to_end(client), StartsWith("HTTP/1.1 503"));
}

TEST_F(TurnstileTest, HoldsSoManyAndClosesTheRest) {
  std::vector<Descriptor> clients;
  for (int i = 0; i < 300; ++i) {
    clients.push_back(connect_to());
    turnstile_.accept(listener_.number(), true);
  }
  std::vector<pollfd> polled;
  turnstile_.add_to(polled);
  EXPECT_EQ(polled.size(), 256u);
  EXPECT_EQ(read_to_end(clients.back()), "");
}

}  // namespace
}  // namespace millrace::server
