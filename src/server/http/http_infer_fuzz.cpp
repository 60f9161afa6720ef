// Arbitrary bytes as the body of an inference: one byte says where the JSON ends, the rest is the
// body. What is read is written again.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "server/http/compression.h"
#include "server/http/infer.h"
#include "server/http/json.h"

namespace {

using namespace millrace;
using namespace millrace::server;

void check_json(std::string_view text) {
  JsonReader reader(text);
  std::string_view raw;
  if (!reader.read_raw(raw) || !reader.finish()) {
    if (reader.error().message.empty()) std::abort();
  }
}

// Sends the inputs that are tensors back as outputs.
void echo(const InferRequest& request, bool binary) {
  Answer answer;
  answer.id = request.call.id;
  for (const CallInput& input : request.call.inputs) {
    if (!input.tensor) continue;
    AnsweredOutput& output = answer.outputs.emplace_back();
    output.name = input.name;
    output.type = input.type;
    output.shape = input.shape;
    output.view = input.tensor->view();
  }
  OutputForms forms;
  forms.binary = binary;
  AnswerBody body;
  if (!write_answer(answer, forms, body).ok()) std::abort();  // they came as JSON
  check_json(body.json);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::size_t binary = std::min<std::size_t>(data[0], body.size());
  const std::string_view json = body.substr(0, body.size() - binary);
  check_json(json);
  (void)choose_encoding(body);
  for (const Encoding encoding : {Encoding::gzip, Encoding::deflate}) {
    const auto plain =
        decompress(body, encoding, 1 << 16, [](std::size_t bytes) { return bytes <= 1 << 17; });
    if (plain.ok() && plain->size() > 1 << 16) std::abort();
  }
  InferRequest request;
  const Result<void> read =
      read_infer(json, data[0] == 255 ? std::nullopt : std::optional<std::size_t>(binary), request);
  if (!read.ok()) return 0;
  bind_binary(request, json.data() + json.size(), {});
  std::size_t bound = 0;
  for (const CallInput& input : request.call.inputs) {
    if (int{input.raw.has_value()} + int{input.tensor.has_value()} +
            int{input.region.has_value()} !=
        1) {
      std::abort();
    }
    if (input.raw && !input.raw_lease) bound += input.raw->second;
  }
  if (bound != (data[0] == 255 ? 0 : binary)) std::abort();
  echo(request, false);
  echo(request, true);
  return 0;
}
