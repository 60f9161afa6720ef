// Arbitrary bytes as a ModelInferRequest; the first says in how large pieces it comes.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "server/grpc/infer_request.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace millrace;
  using namespace millrace::server;
  if (size == 0) return 0;
  const std::size_t most = data[0] == 0 ? size : data[0];
  std::vector<std::string_view> pieces;
  for (std::size_t at = 1; at < size; at += most) {
    pieces.emplace_back(reinterpret_cast<const char*>(data) + at, std::min(most, size - at));
  }
  // What a message makes the server allocate is in proportion to its length.
  const auto receive = [size](std::string_view, std::size_t bytes) -> Result<Tensor> {
    if (bytes > 8 * size) std::abort();
    return Tensor::allocate(DataType::uint8, {static_cast<std::int64_t>(bytes)});
  };
  const Result<Call> call = read_infer_request(pieces, receive);
  (void)read_request_names(pieces);
  if (!call) {
    if (call.error().message.empty()) std::abort();
    return 0;
  }
  std::size_t sum = 0;
  for (const CallInput& input : call->inputs) {
    if (input.region) continue;
    if (input.raw.has_value() == input.tensor.has_value()) std::abort();
    const std::size_t bytes = input.raw ? input.raw->second : *input.tensor->view().bytes();
    const auto expected = byte_count(input.type, input.shape);
    if (!expected || (input.type != DataType::bytes && *expected != bytes)) std::abort();
    const auto* at =
        static_cast<const unsigned char*>(input.raw ? input.raw->first : input.tensor->view().data);
    for (std::size_t i = 0; i < bytes; ++i) sum += at[i];
  }
  return sum == 1 ? static_cast<int>(sum - 1) : 0;
}
