// TLS for the gRPC port, from files that are looked at every second: a certificate that was renewed is shown on the
// next connections, without a restart. Files that do not belong together are not taken; what they held before is shown
// on, and a log record says so.
//
//   ASSIGN_OR_RETURN(std::unique_ptr<TlsCertificates> tls, TlsCertificates::Start({.certificate = "a", .key = "b"}));
//   builder.AddListeningPort("0.0.0.0:50051", tls->credentials());
//
// Thread-safe. It must outlive the server that has its credentials.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"

namespace mnemosyne {

struct TlsFiles {
  std::string certificate;  // PEM: the server's chain, its own first; empty: no TLS
  std::string key;          // PEM
  std::string client_ca;    // PEM: who signs the certificates that clients must show; empty: they need none
};

class TlsCertificates {
 public:
  // INVALID_ARGUMENT names a file that is missing, is not what it should be, or a key that is not the certificate's.
  static absl::StatusOr<std::unique_ptr<TlsCertificates>> Start(const TlsFiles& files);
  ~TlsCertificates();

  const std::shared_ptr<grpc::ServerCredentials>& credentials() const { return credentials_; }
  absl::Time not_after() const { return absl::FromUnixSeconds(not_after_); }  // until when the certificate is valid
  int64_t reloads(bool succeeded) const { return succeeded ? reloads_ : failed_reloads_; }

 private:
  class HeldFile;

  explicit TlsCertificates(TlsFiles files);
  absl::Status Reload();  // the error of files that changed and are not taken
  void Watch();

  const TlsFiles files_;
  std::string looked_at_;  // what the files held when they were last looked at
  const std::unique_ptr<HeldFile> certificate_, key_, client_ca_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::atomic<int64_t> not_after_ = 0;  // s since 1970
  std::atomic<int64_t> reloads_ = 0, failed_reloads_ = 0;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;  // last: it uses the members above
};

}  // namespace mnemosyne
