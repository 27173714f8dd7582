#include "server/access/tls.h"

#include <fcntl.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "core/base/thread_name.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "server/log.h"

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

absl::StatusOr<Certificate> FirstCertificate(const char* flag, const std::string& path, const std::string& text) {
  BIO* const bio = BIO_new_mem_buf(text.data(), static_cast<int>(text.size()));
  const absl::Cleanup free_bio = [&] { BIO_free(bio); };
  Certificate certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr), X509_free);
  if (certificate != nullptr) return certificate;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": '", path, "' holds no certificate in PEM"));
}

// Not asked for on a terminal: a key with a passphrase cannot be used.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<Key> KeyOf(const char* flag, const std::string& path, const std::string& text) {
  BIO* const bio = BIO_new_mem_buf(text.data(), static_cast<int>(text.size()));
  const absl::Cleanup free_bio = [&] { BIO_free(bio); };
  Key key(PEM_read_bio_PrivateKey(bio, nullptr, NoPassphrase, nullptr), EVP_PKEY_free);
  if (key != nullptr) return key;
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, ": '", path, "' holds no private key in PEM, or one with a passphrase"));
}

int64_t NotAfter(const Certificate& certificate) {
  std::tm time = {};
  ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &time);
  return timegm(&time);
}

}  // namespace

// A file of this process's memory, for gRPC, which takes certificates that change from files only and would take a key
// that is not the certificate's: then every new connection fails. So it is shown what was found to belong together.
class TlsCertificates::HeldFile {
 public:
  HeldFile() : file_(memfd_create("mnemosyne-tls", MFD_CLOEXEC)) {}
  ~HeldFile() {
    if (file_ >= 0) close(file_);
  }
  std::string path() const { return absl::StrCat("/proc/self/fd/", file_); }

  // At once: whoever opens it finds the one text or the other.
  absl::Status Replace(absl::string_view text) {
    const int next = memfd_create("mnemosyne-tls", MFD_CLOEXEC);
    const absl::Cleanup close_next = [&] { close(next); };
    if (file_ < 0 || next < 0 || write(next, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
        dup3(next, file_, O_CLOEXEC) < 0) {
      return absl::ErrnoToStatus(errno, "a certificate cannot be held in memory");
    }
    return absl::OkStatus();
  }

 private:
  const int file_;
};

absl::StatusOr<std::unique_ptr<TlsCertificates>> TlsCertificates::Start(const TlsFiles& files) {
  std::unique_ptr<TlsCertificates> tls = absl::WrapUnique(new TlsCertificates(files));
  RETURN_IF_ERROR(tls->Reload());
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      tls->key_->path(), tls->certificate_->path(), files.client_ca.empty() ? "" : tls->client_ca_->path(),
      kLookEverySeconds);
  grpc::experimental::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  tls->credentials_ = grpc::experimental::TlsServerCredentials(options);
  tls->watcher_ = std::thread([raw = tls.get()] {
    NameThread("mn-tls");
    raw->Watch();
  });
  return tls;
}

TlsCertificates::TlsCertificates(TlsFiles files)
    : files_(std::move(files)),
      certificate_(std::make_unique<HeldFile>()),
      key_(std::make_unique<HeldFile>()),
      client_ca_(std::make_unique<HeldFile>()) {}

TlsCertificates::~TlsCertificates() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (watcher_.joinable()) watcher_.join();
}

void TlsCertificates::Watch() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::Seconds(kLookEverySeconds))) return;
    }
    const int64_t before = reloads_;
    const absl::Status status = Reload();
    if (!status.ok()) {
      Log(LogLevel::kError, "the files for TLS are not taken; what they held before is used",
          {{"reason", std::string(status.message())}});
    } else if (reloads_ != before) {
      Log(LogLevel::kInfo, "files for TLS taken",
          {{"certificate", files_.certificate}, {"not_after", absl::FormatTime(not_after(), absl::UTCTimeZone())}});
    }
  }
}

absl::Status TlsCertificates::Reload() {
  std::string certificate, key, client_ca;
  const absl::Status read = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(certificate, Read("tls_certificate", files_.certificate));
    ASSIGN_OR_RETURN(key, Read("tls_key", files_.key));
    if (!files_.client_ca.empty()) {
      ASSIGN_OR_RETURN(client_ca, Read("tls_client_ca", files_.client_ca));
    }
    return absl::OkStatus();
  }();
  std::string looked_at = read.ok() ? absl::StrCat(certificate, "\n", key, "\n", client_ca) : read.ToString();
  if (looked_at == looked_at_) return absl::OkStatus();
  looked_at_ = std::move(looked_at);
  const absl::Status status = [&]() -> absl::Status {
    RETURN_IF_ERROR(read);
    ASSIGN_OR_RETURN(const Certificate own, FirstCertificate("tls_certificate", files_.certificate, certificate));
    ASSIGN_OR_RETURN(const Key own_key, KeyOf("tls_key", files_.key, key));
    if (X509_check_private_key(own.get(), own_key.get()) != 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--tls_key: '", files_.key, "' is not the key of the certificate in '", files_.certificate, "'"));
    }
    if (!files_.client_ca.empty()) {
      RETURN_IF_ERROR(FirstCertificate("tls_client_ca", files_.client_ca, client_ca).status());
      RETURN_IF_ERROR(client_ca_->Replace(client_ca));
    }
    RETURN_IF_ERROR(key_->Replace(key));
    RETURN_IF_ERROR(certificate_->Replace(certificate));
    not_after_ = NotAfter(own);
    return absl::OkStatus();
  }();
  (status.ok() ? reloads_ : failed_reloads_) += 1;
  return status;
}

}  // namespace mnemosyne
