// TLS, with certificates made here.
#include "server/http/tls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <nlohmann/json.hpp>

#include "server/http/test_server.h"

namespace millrace::server {
namespace {

using ::testing::HasSubstr;
using testing::HttpTest;
using testing::patient;
using testing::TestClient;

struct Identity {
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;

  Identity() = default;
  Identity(const Identity&) = delete;
  ~Identity() {
    EVP_PKEY_free(key);
    X509_free(certificate);
  }
  void make(const char* name, const Identity* issuer, long valid_s, bool authority) {
    key = EVP_EC_gen("P-256");
    certificate = X509_new();
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -86400);
    X509_gmtime_adj(X509_getm_notAfter(certificate), valid_s);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    X509_set_issuer_name(certificate,
                         X509_get_subject_name(issuer ? issuer->certificate : certificate));
    if (authority) {
      X509_EXTENSION* extension =
          X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE");
      X509_add_ext(certificate, extension, -1);
      X509_EXTENSION_free(extension);
    }
    ASSERT_GT(X509_sign(certificate, issuer ? issuer->key : key, EVP_sha256()), 0);
  }
  void write(const std::string& certificate_file, const std::string& key_file) const {
    FILE* file = std::fopen(certificate_file.c_str(), "w");
    PEM_write_X509(file, certificate);
    std::fclose(file);
    file = std::fopen(key_file.c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    std::fclose(file);
  }
};

class Tls : public HttpTest {
 protected:
  void SetUp() override {
    HttpTest::SetUp();
    authority_.make("authority", nullptr, 86400, true);
    server_identity_.make("server", &authority_, 86400, false);
    client_identity_.make("client", &authority_, 86400, false);
    stranger_.make("stranger", nullptr, 86400, true);
    expired_.make("expired", &authority_, -3600, false);
    authority_.write(folder_.path("ca.pem"), folder_.path("ca.key"));
    server_identity_.write(folder_.path("server.pem"), folder_.path("server.key"));
    expired_.write(folder_.path("expired.pem"), folder_.path("expired.key"));
  }
  HttpOptions with_tls() const {
    HttpOptions options = patient();
    options.tls.certificate = folder_.path("server.pem");
    options.tls.key = folder_.path("server.key");
    return options;
  }
  std::string refusal(const HttpOptions& options) {
    const auto started = HttpServer::start(*service_, options);
    if (started.ok()) return "no error";
    return std::string(to_string(started.error().code)) + ": " + started.error().message;
  }

  Identity authority_, server_identity_, client_identity_, stranger_, expired_;
};

/// A client that trusts one authority.
class TlsClient {
 public:
  TlsClient(std::uint16_t port, const Identity& trusted, const Identity* own) : plain_(port) {
    context_ = SSL_CTX_new(TLS_client_method());
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context_), trusted.certificate);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    if (own) {
      SSL_CTX_use_certificate(context_, own->certificate);
      SSL_CTX_use_PrivateKey(context_, own->key);
    }
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, plain_.socket());
    connected_ = SSL_connect(ssl_) == 1;
  }
  TlsClient(const TlsClient&) = delete;
  ~TlsClient() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  [[nodiscard]] bool connected() const { return connected_; }

  /// The bytes of the body; empty: there was no answer.
  std::string ask(const std::string& request) { return send(request) ? receive() : ""; }
  /// Each request in records of its own, and all of them in one packet if they fit.
  bool send_together(const std::vector<std::string>& requests) {
    int cork = 1;
    ::setsockopt(plain_.socket(), IPPROTO_TCP, TCP_CORK, &cork, sizeof cork);
    bool sent = true;
    for (const std::string& request : requests) sent = sent && send(request);
    cork = 0;
    ::setsockopt(plain_.socket(), IPPROTO_TCP, TCP_CORK, &cork, sizeof cork);
    return sent;
  }
  /// The body of the next response.
  std::string receive() {
    while (true) {
      const std::size_t end = text_.find("\r\n\r\n");
      if (end != std::string::npos) {
        // The last of that name: one of ours ends in it, too.
        const std::size_t own = text_.rfind("\r\nContent-Length: ", end);
        const std::size_t bytes = std::stoul(text_.substr(own + 18));
        if (text_.size() - end - 4 >= bytes) {
          std::string body = text_.substr(end + 4, bytes);
          text_.erase(0, end + 4 + bytes);
          return body;
        }
      }
      char part[16384];
      const int got = SSL_read(ssl_, part, sizeof part);
      if (got <= 0) return "";
      text_.append(part, static_cast<std::size_t>(got));
    }
  }

 private:
  bool send(const std::string& request) {
    for (std::size_t at = 0; at < request.size();) {
      const int sent =
          SSL_write(ssl_, request.data() + at,
                    static_cast<int>(std::min<std::size_t>(request.size() - at, 100000)));
      if (sent <= 0) return false;
      at += static_cast<std::size_t>(sent);
    }
    return true;
  }

  TestClient plain_;
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
  bool connected_ = false;
  std::string text_;  // that came behind what was received
};

TEST_F(Tls, Serves) {
  start(with_tls());
  TlsClient client(port(), authority_, nullptr);
  ASSERT_TRUE(client.connected());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.ask(TestClient::text("GET", "/v2/health/live")), R"({"live":true})");
  }
  for (const std::size_t values : {4U, 4000U, 1000000U}) {
    const std::string json = binary_json(values, R"(,"parameters":{"binary_data_output":true})");
    const std::string body = client.ask(TestClient::text(
        "POST", "/v2/models/any/infer", json + floats(values), header_length(json)));
    ASSERT_GT(body.size(), values * 4);
    EXPECT_EQ(body.substr(body.size() - values * 4), floats(values));
  }
  EXPECT_TRUE(all_released());
}

TEST_F(Tls, AnswersRequestsThatComeTogether) {
  start(with_tls());
  TlsClient client(port(), authority_, nullptr);
  ASSERT_TRUE(client.connected());
  const auto infer = [](int value) {
    return TestClient::text(
        "POST", "/v2/models/identity/infer",
        concat(R"({"inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[)", value,
               R"(,0,0,0]}]})"));
  };
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(client.send_together({infer(3 * i), infer(3 * i + 1), infer(3 * i + 2)}));
    for (int k = 0; k < 3; ++k) {
      const std::string body = client.receive();
      ASSERT_FALSE(body.empty());
      EXPECT_EQ(nlohmann::json::parse(body)["outputs"][0]["data"][0], 3 * i + k);
    }
  }
}

TEST_F(Tls, TalksToNobodyWithoutIt) {
  start(with_tls());
  TestClient plain(port());
  plain.send(TestClient::text("GET", "/v2/health/live"));
  EXPECT_TRUE(plain.ended());
  const TlsClient wary(port(), stranger_, nullptr);
  EXPECT_FALSE(wary.connected());
  TlsClient client(port(), authority_, nullptr);
  EXPECT_EQ(client.ask(TestClient::text("GET", "/v2/health/live")), R"({"live":true})");
}

TEST_F(Tls, GivesUpOnSlowHandshakes) {
  HttpOptions options = with_tls();
  options.header_timeout = std::chrono::milliseconds(50);
  start(options);
  TestClient silent(port());
  EXPECT_TRUE(silent.ended());
  EXPECT_GE(server_->counters().timeouts.load(), 1U);
}

TEST_F(Tls, AsksClientsForCertificates) {
  HttpOptions options = with_tls();
  options.tls.client_authorities = folder_.path("ca.pem");
  start(options);
  const std::string request = TestClient::text("GET", "/v2/health/live");
  TlsClient known(port(), authority_, &client_identity_);
  EXPECT_EQ(known.ask(request), R"({"live":true})");
  for (const Identity* other :
       {static_cast<const Identity*>(nullptr), static_cast<const Identity*>(&stranger_),
        static_cast<const Identity*>(&expired_)}) {
    TlsClient client(port(), authority_, other);
    EXPECT_EQ(client.ask(request), "");
  }
}

TEST_F(Tls, SaysWhatIsWrongWithFiles) {
  start();
  HttpOptions options = with_tls();
  options.tls.certificate = folder_.path("expired.pem");
  options.tls.key = folder_.path("expired.key");
  EXPECT_THAT(refusal(options), HasSubstr("expired"));
  options = with_tls();
  options.tls.key = folder_.path("ca.key");
  EXPECT_THAT(refusal(options), HasSubstr("ca.key"));
  options = with_tls();
  options.tls.key.clear();
  EXPECT_THAT(refusal(options), HasSubstr("invalid_argument"));
  options = with_tls();
  options.tls.certificate = folder_.path("none.pem");
  EXPECT_THAT(refusal(options), HasSubstr("none.pem"));
  options = with_tls();
  options.tls.client_authorities = folder_.path("server.key");
  EXPECT_THAT(refusal(options), HasSubstr("server.key"));
  options = with_tls();
  options.listener.host = "0.0.0.0";
  EXPECT_EQ(refusal(options), "no error");
}

}  // namespace
}  // namespace millrace::server
