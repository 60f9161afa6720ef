// For tests: an authority, and certificates that it signs, made as the test runs.
#pragma once

#include <memory>
#include <string>

#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

namespace millrace::testing {

/// As PEM.
struct Certificate {
  std::string certificate;
  std::string key;
};

/// Signs certificates for 127.0.0.1 and localhost, for servers and clients alike.
class Authority {
 public:
  explicit Authority(const std::string& name) : key_(EVP_EC_gen("P-256"), EVP_PKEY_free) {
    certificate_ = make(name, key_.get(), nullptr, 0, kDaySeconds);
  }
  [[nodiscard]] std::string certificate() const { return pem(*certificate_); }
  /// Valid from now on for so many seconds; a negative number: it has expired.
  [[nodiscard]] Certificate sign(const std::string& name, long seconds = kDaySeconds) const {
    const Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
    const auto signed_one = make(name, key.get(), this, -2 * kDaySeconds, seconds);
    return {pem(*signed_one), pem(*key)};
  }

 private:
  static constexpr long kDaySeconds = 24 * 60 * 60;
  using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
  using Signed = std::shared_ptr<X509>;

  static Signed make(const std::string& name, EVP_PKEY* key, const Authority* issuer, long from,
                     long until) {
    const Signed made(X509_new(), X509_free);
    X509_set_version(made.get(), X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), issuer ? 2 : 1);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), from);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), until);
    X509_set_pubkey(made.get(), key);
    X509_NAME* subject = X509_get_subject_name(made.get());
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509* const signer = issuer ? issuer->certificate_.get() : made.get();
    X509_set_issuer_name(made.get(), X509_get_subject_name(signer));
    extend(*made, *signer, NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
    if (issuer) extend(*made, *signer, NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost");
    EXPECT_GT(X509_sign(made.get(), issuer ? issuer->key_.get() : key, EVP_sha256()), 0);
    return made;
  }
  static void extend(X509& made, X509& signer, int what, const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, &signer, &made, nullptr, nullptr, 0);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, what, value);
    ASSERT_NE(extension, nullptr);
    X509_add_ext(&made, extension, -1);
    X509_EXTENSION_free(extension);
  }
  template <class Write>
  static std::string written(const Write& write) {
    const std::unique_ptr<BIO, decltype(&BIO_free)> memory(BIO_new(BIO_s_mem()), BIO_free);
    EXPECT_EQ(write(memory.get()), 1);
    char* data = nullptr;
    const long size = BIO_get_mem_data(memory.get(), &data);
    return {data, static_cast<std::size_t>(size)};
  }
  static std::string pem(X509& certificate) {
    return written([&](BIO* out) { return PEM_write_bio_X509(out, &certificate); });
  }
  static std::string pem(EVP_PKEY& key) {
    return written([&](BIO* out) {
      return PEM_write_bio_PrivateKey(out, &key, nullptr, nullptr, 0, nullptr, nullptr);
    });
  }

  Key key_;
  Signed certificate_;
};

}  // namespace millrace::testing
