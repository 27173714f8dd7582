#include "client/channel.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/support/client_interceptor.h"

namespace mnemosyne::client {
namespace {

namespace experimental = grpc::experimental;

// gRPC's own call credentials refuse a connection without TLS, which a server on this machine may well have.
class TokenInterceptor final : public experimental::Interceptor {
 public:
  explicit TokenInterceptor(const std::string* authorization) : authorization_(authorization) {}
  void Intercept(experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->insert({"authorization", *authorization_});
    }
    methods->Proceed();
  }

 private:
  const std::string* const authorization_;
};

class TokenInterceptors final : public experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptors(const std::string& token) : authorization_(absl::StrCat("Bearer ", token)) {}
  experimental::Interceptor* CreateClientInterceptor(experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(&authorization_);  // gRPC's
  }

 private:
  const std::string authorization_;
};

grpc::ChannelArguments ArgumentsFor(const Client::Options& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);  // a page of sessions with all their labels is over the default
  // A server that restarts is back within seconds: gRPC's own backoff would wait for up to two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // bounds an attempt to connect, TLS among it, too
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  if (options.keepalive_time != absl::InfiniteDuration()) {
    int64_t milliseconds = std::max<int64_t>(1, absl::ToInt64Milliseconds(options.keepalive_time));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                     static_cast<int>(std::min<int64_t>(milliseconds, std::numeric_limits<int>::max())));
  }
  return arguments;
}

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& target, const Client::Options& options) {
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls) {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = options.tls->root_certificates;
    ssl.pem_private_key = options.tls->key;
    ssl.pem_cert_chain = options.tls->certificate;
    credentials = grpc::SslCredentials(ssl);
  }
  if (options.token.empty()) return grpc::CreateCustomChannel(target, credentials, ArgumentsFor(options));
  std::vector<std::unique_ptr<experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<TokenInterceptors>(options.token));
  return experimental::CreateCustomChannelWithInterceptors(target, credentials, ArgumentsFor(options),
                                                           std::move(interceptors));
}

}  // namespace mnemosyne::client
