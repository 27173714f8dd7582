// The connection to a server: in the clear or by TLS, with the token that every call carries. Internal to client/.
#pragma once

#include <memory>
#include <string>

#include "client/client.h"
#include "grpcpp/channel.h"

namespace mnemosyne::client {

// Does not wait for the connection. The token, if there is one, goes with every call as "authorization: Bearer TOKEN".
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target, const Client::Options& options);

}  // namespace mnemosyne::client
