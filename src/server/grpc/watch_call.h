// A call of the health protocol's Watch: says the status now, and whenever it changes.
#pragma once

#include <string>
#include <unordered_set>

#include "server/grpc/context.h"
#include "server/grpc/events.h"

namespace millrace::server {

class WatchCall;

/// Those of one queue, on whose thread everything happens.
class Watchers {
 public:
  explicit Watchers(GrpcContext& context) noexcept : context_(context) {}
  [[nodiscard]] bool empty() const noexcept { return calls_.empty(); }
  /// Lets each say what has changed; ends them when the server stops. To be called now and then.
  void look();

 private:
  friend class WatchCall;
  GrpcContext& context_;
  std::unordered_set<WatchCall*> calls_;
};

/// Deletes itself when the call is over.
class WatchCall {
 public:
  static void start(GrpcContext& context, Watchers& watchers, CallHandle call);

 private:
  friend class Watchers;
  WatchCall(GrpcContext& context, Watchers& watchers, CallHandle call);
  void look();
  void end(int status, const char* text) noexcept;
  void received(bool ok);
  void sent(bool ok);
  void closed(bool ok);
  void release() noexcept;

  GrpcContext& context_;
  Watchers& watchers_;
  const CallHandle call_;
  EventOf<WatchCall, &WatchCall::received> received_{this};
  EventOf<WatchCall, &WatchCall::sent> sent_{this};
  EventOf<WatchCall, &WatchCall::closed> closed_{this};
  grpc_byte_buffer* raw_message_ = nullptr;
  int cancelled_ = 0;
  std::string request_;
  std::string told_;  // last
  int awaited_ = 2;   // events: the request and the close
  bool asked_ = false;
  bool sending_ = false;
  bool over_ = false;
};

}  // namespace millrace::server
