#include "client/client.h"

#include <future>

#include "base/try.h"
#include "client/grpc_client.h"
#include "client/http_client.h"
#include "client/url.h"

namespace millrace::client {

Result<std::unique_ptr<Client>> Client::connect(std::string_view url, ClientOptions options) {
  MILLRACE_ASSIGN(Url where, parse_url(url));
  return where.grpc ? connect_grpc(where, std::move(options))
                    : connect_http(std::move(where), std::move(options));
}

Result<Response> Client::infer(const ModelName& model, Request request) {
  std::promise<Result<Response>> promise;
  std::future<Result<Response>> future = promise.get_future();
  MILLRACE_TRY(infer(model, std::move(request), [&promise](Result<Response> response, bool) {
    promise.set_value(std::move(response));
  }));
  return future.get();
}

Result<void> Client::register_memory(const std::string& name, const SharedMemory& memory) {
  MILLRACE_TRY(do_register_system(name, memory.key(), memory.bytes()));
  regions_.add({name, memory.data(), memory.bytes(), DeviceId::host_memory()});
  return {};
}

Result<void> Client::register_cuda_memory(const std::string& name, const TensorView& memory,
                                          std::span<const std::byte> handle, int gpu) {
  MILLRACE_ASSIGN(const std::size_t bytes, memory.bytes());
  MILLRACE_TRY(do_register_cuda(name, handle, gpu, bytes));
  regions_.add({name, static_cast<const std::byte*>(memory.data), bytes, memory.device});
  return {};
}

Result<void> Client::unregister_memory(const std::string& name) {
  regions_.remove(name);
  return do_unregister(name, false);
}

Result<void> Client::unregister_cuda_memory(const std::string& name) {
  regions_.remove(name);
  return do_unregister(name, true);
}

}  // namespace millrace::client
