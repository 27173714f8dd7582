// TLS for the gRPC port, from files that are looked at again every second: a certificate that was renewed is used for
// the next connection, without a restart.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"

namespace mnemosyne {

struct TlsFiles {
  std::string certificate;  // PEM: the server's chain, its own first; empty: no TLS
  std::string key;          // PEM
  std::string client_ca;    // PEM: who signs the certificates that clients must show; empty: they need none
};

// INVALID_ARGUMENT names a file that is missing, is not what it should be, or a key that is not the certificate's.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> TlsServerCredentials(const TlsFiles& files);

}  // namespace mnemosyne
