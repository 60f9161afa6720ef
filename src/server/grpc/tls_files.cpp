#include "server/grpc/tls_files.h"

#include <string>
#include <utility>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

struct OpenSslDeleter {
  void operator()(BIO* memory) const noexcept { BIO_free(memory); }
  void operator()(X509* certificate) const noexcept { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const noexcept { EVP_PKEY_free(key); }
};
template <class T>
using Owned = std::unique_ptr<T, OpenSslDeleter>;

Owned<BIO> reader(const std::string& text) {
  return Owned<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Error wrong(const std::string& file, std::string_view expected) {
  ERR_clear_error();
  return {ErrorCode::invalid_argument, concat(quote(file), ": expected ", expected)};
}

/// The file's text, the first certificate of which can be read.
Result<std::string> read_certificates(const std::string& file, Owned<X509>& first) {
  MILLRACE_ASSIGN(std::string text, read_file(file));
  first.reset(PEM_read_bio_X509(reader(text).get(), nullptr, nullptr, nullptr));
  if (!first) return wrong(file, "certificates in PEM");
  return text;
}

}  // namespace

Result<std::shared_ptr<grpc::ServerCredentials>> open_credentials(const TlsFiles& files) {
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  const bool mutual = !files.client_authorities.empty();
  grpc::SslServerCredentialsOptions options(
      mutual ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
             : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  Owned<X509> certificate, authority;
  MILLRACE_ASSIGN(std::string chain, read_certificates(files.certificate, certificate));
  MILLRACE_ASSIGN(std::string key_text, read_file(files.key));
  const Owned<EVP_PKEY> key(
      PEM_read_bio_PrivateKey(reader(key_text).get(), nullptr, nullptr, nullptr));
  if (!key) return wrong(files.key, "a private key in PEM, without a password");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return wrong(files.key, concat("the key of the certificate in ", quote(files.certificate)));
  }
  options.pem_key_cert_pairs.push_back({std::move(key_text), std::move(chain)});
  if (mutual) {
    MILLRACE_ASSIGN(options.pem_root_certs, read_certificates(files.client_authorities, authority));
  }
  return grpc::SslServerCredentials(options);
}

}  // namespace millrace::server
