#include "server/access/tls.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace mnemosyne {
namespace {

constexpr unsigned kLookEverySeconds = 1;

using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;

absl::StatusOr<std::string> Read(const char* flag, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (text.ok()) return text;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", text.status().message()));
}

absl::StatusOr<Certificate> FirstCertificate(const char* flag, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, Read(flag, path));
  BIO* const bio = BIO_new_mem_buf(text.data(), static_cast<int>(text.size()));
  const absl::Cleanup free_bio = [&] { BIO_free(bio); };
  Certificate certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr), X509_free);
  if (certificate != nullptr) return certificate;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": '", path, "' holds no certificate in PEM"));
}

// Not asked for on a terminal: a key with a passphrase cannot be used.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<Key> KeyOf(const char* flag, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, Read(flag, path));
  BIO* const bio = BIO_new_mem_buf(text.data(), static_cast<int>(text.size()));
  const absl::Cleanup free_bio = [&] { BIO_free(bio); };
  Key key(PEM_read_bio_PrivateKey(bio, nullptr, NoPassphrase, nullptr), EVP_PKEY_free);
  if (key != nullptr) return key;
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, ": '", path, "' holds no private key in PEM, or one with a passphrase"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TlsServerCredentials(const TlsFiles& files) {
  ASSIGN_OR_RETURN(const Certificate certificate, FirstCertificate("tls_certificate", files.certificate));
  ASSIGN_OR_RETURN(const Key key, KeyOf("tls_key", files.key));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_key: '", files.key, "' is not the key of the certificate in '", files.certificate, "'"));
  }
  if (!files.client_ca.empty()) RETURN_IF_ERROR(FirstCertificate("tls_client_ca", files.client_ca).status());
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.client_ca, kLookEverySeconds);
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace mnemosyne
