#include "backends/onnx_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

namespace millrace {
namespace {

// Field numbers of onnx.proto.
namespace model {
constexpr std::uint32_t kIrVersion = 1, kGraph = 7, kOpsetImport = 8, kMetadata = 14,
                        kFunctions = 25;
}
namespace opset {
constexpr std::uint32_t kDomain = 1, kVersion = 2;
}
namespace graph {
constexpr std::uint32_t kNode = 1, kInitializer = 5, kInput = 11, kOutput = 12;
}
namespace function {
constexpr std::uint32_t kNode = 7;
}
namespace node {
constexpr std::uint32_t kOperator = 4, kAttribute = 5;
}
namespace attribute {
constexpr std::uint32_t kTensor = 5, kGraph = 6, kTensors = 10, kGraphs = 11;
}
namespace tensor {
constexpr std::uint32_t kExternalData = 13;
}
namespace entry {
constexpr std::uint32_t kKey = 1, kValue = 2;
}
namespace value {
constexpr std::uint32_t kName = 1, kType = 2;
}
namespace type {
constexpr std::uint32_t kTensor = 1, kTensorShape = 2;
}

struct Field {
  std::uint32_t number = 0;
  std::uint64_t integer = 0;  // of a varint
  std::string_view bytes;     // of a length-delimited field
};

// Walks the fields of one protobuf message.
class Message {
 public:
  explicit Message(std::string_view bytes) noexcept : rest_(bytes) {}

  // The next field; nothing at the end, and then `ok` says whether that was the proper one.
  std::optional<Field> next() noexcept {
    if (rest_.empty() || !ok_) return std::nullopt;
    Field field;
    const std::optional<std::uint64_t> key = varint();
    if (!key || *key >> 3 > std::numeric_limits<std::uint32_t>::max()) return fail();
    field.number = static_cast<std::uint32_t>(*key >> 3);
    switch (*key & 7) {
      case 0: {
        const std::optional<std::uint64_t> integer = varint();
        if (!integer) return fail();
        field.integer = *integer;
        return field;
      }
      case 1:
        return skip(8) ? std::optional(field) : fail();
      case 2: {
        const std::optional<std::uint64_t> length = varint();
        if (!length || *length > rest_.size()) return fail();
        field.bytes = rest_.substr(0, *length);
        rest_.remove_prefix(*length);
        return field;
      }
      case 5:
        return skip(4) ? std::optional(field) : fail();
      default:
        return fail();
    }
  }
  [[nodiscard]] bool ok() const noexcept { return ok_; }

 private:
  std::optional<Field> fail() noexcept {
    ok_ = false;
    return std::nullopt;
  }
  bool skip(std::size_t bytes) noexcept {
    if (rest_.size() < bytes) return false;
    rest_.remove_prefix(bytes);
    return true;
  }
  std::optional<std::uint64_t> varint() noexcept {
    std::uint64_t result = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      result |= std::uint64_t{byte & 0x7fU} << shift;
      if ((byte & 0x80U) == 0) return result;
    }
    return std::nullopt;
  }

  std::string_view rest_;
  bool ok_ = true;
};

std::string_view find_bytes(std::string_view message, std::uint32_t number) {
  Message fields(message);
  while (const auto field = fields.next()) {
    if (field->number == number) return field->bytes;
  }
  return {};
}

// Bytes of an initializer: those in the message (its few bytes of description count as well), and
// those elsewhere.
std::uint64_t bytes_of_tensor(std::string_view message) {
  std::uint64_t bytes = message.size();
  Message fields(message);
  while (const auto field = fields.next()) {
    if (field->number != tensor::kExternalData || find_bytes(field->bytes, entry::kKey) != "length")
      continue;
    const std::string_view text = find_bytes(field->bytes, entry::kValue);
    std::uint64_t length = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
    constexpr std::uint64_t kMost = std::uint64_t{1} << 50;
    if (error == std::errc() && end == text.data() + text.size() && length < kMost) bytes += length;
  }
  return bytes;
}

// The name of a value that declares no shape; nothing when it does, or is no tensor.
std::optional<std::string> shapeless_name(std::string_view message) {
  const std::string_view value_type = find_bytes(message, value::kType);
  Message kinds(value_type);
  while (const auto kind = kinds.next()) {
    if (kind->number != type::kTensor) return std::nullopt;
    Message fields(kind->bytes);
    while (const auto field = fields.next()) {
      if (field->number == type::kTensorShape) return std::nullopt;
    }
  }
  return std::string(find_bytes(message, value::kName));
}

// Notes the file that a tensor lies in, if it does.
void read_tensor(std::string_view message, OnnxSummary& summary) {
  Message fields(message);
  while (const auto field = fields.next()) {
    if (field->number != tensor::kExternalData ||
        find_bytes(field->bytes, entry::kKey) != "location") {
      continue;
    }
    summary.external_files.emplace_back(find_bytes(field->bytes, entry::kValue));
  }
}

void read_nodes(std::string_view message, std::uint32_t node_field, OnnxSummary& summary,
                int depth);

void read_node(std::string_view message, OnnxSummary& summary, int depth) {
  Message fields(message);
  while (const auto field = fields.next()) {
    if (field->number == node::kOperator) {
      summary.quantized |= field->bytes == "QuantizeLinear" || field->bytes == "DequantizeLinear";
    }
    if (field->number != node::kAttribute) continue;
    Message values(field->bytes);
    while (const auto part = values.next()) {
      if (part->number == attribute::kTensor || part->number == attribute::kTensors) {
        read_tensor(part->bytes, summary);
      } else if (part->number == attribute::kGraph || part->number == attribute::kGraphs) {
        read_nodes(part->bytes, graph::kNode, summary, depth + 1);
      }
    }
  }
}

// The nodes of a graph or function, with the graphs inside them.
void read_nodes(std::string_view message, std::uint32_t node_field, OnnxSummary& summary,
                int depth) {
  constexpr int kDeepest = 32;
  if (depth > kDeepest) return;
  Message fields(message);
  while (const auto field = fields.next()) {
    if (field->number == node_field) read_node(field->bytes, summary, depth);
    const bool in_graph = node_field == graph::kNode;
    if (in_graph && field->number == graph::kInitializer) read_tensor(field->bytes, summary);
  }
}

void read_metadata(std::string_view message, OnnxSummary& summary) {
  if (find_bytes(message, entry::kKey) != "millrace_variant") return;
  summary.variant = find_bytes(message, entry::kValue);
}

bool read_graph(std::string_view message, OnnxSummary& summary) {
  read_nodes(message, graph::kNode, summary, 0);
  Message fields(message);
  while (const auto field = fields.next()) {
    switch (field->number) {
      case graph::kInitializer:
        summary.weights_bytes += bytes_of_tensor(field->bytes);
        break;
      case graph::kInput:
        if (auto name = shapeless_name(field->bytes))
          summary.shapeless_inputs.push_back(std::move(*name));
        break;
      case graph::kOutput:
        if (auto name = shapeless_name(field->bytes))
          summary.shapeless_outputs.push_back(std::move(*name));
        break;
      default:
        break;
    }
  }
  return fields.ok();
}

void read_opset(std::string_view message, OnnxSummary& summary) {
  std::pair<std::string, std::int64_t> found;
  Message fields(message);
  while (const auto field = fields.next()) {
    if (field->number == opset::kDomain) found.first = std::string(field->bytes);
    if (field->number == opset::kVersion) found.second = static_cast<std::int64_t>(field->integer);
  }
  summary.opsets.push_back(std::move(found));
}

}  // namespace

OnnxSummary summarize_onnx(std::string_view content) {
  OnnxSummary summary;
  bool graph_read = false;
  Message fields(content);
  while (const auto field = fields.next()) {
    switch (field->number) {
      case model::kIrVersion:
        summary.ir_version = static_cast<std::int64_t>(field->integer);
        break;
      case model::kOpsetImport:
        read_opset(field->bytes, summary);
        break;
      case model::kGraph:
        graph_read = read_graph(field->bytes, summary);
        break;
      case model::kFunctions:
        read_nodes(field->bytes, function::kNode, summary, 0);
        break;
      case model::kMetadata:
        read_metadata(field->bytes, summary);
        break;
      default:
        break;
    }
  }
  summary.complete = fields.ok() && graph_read;
  std::vector<std::string>& files = summary.external_files;
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return summary;
}

OnnxSummary summarize_onnx_file(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return {};
  struct stat status {};
  OnnxSummary summary;
  if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    const auto bytes = static_cast<std::size_t>(status.st_size);
    void* const data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (data != MAP_FAILED) {
      summary = summarize_onnx({static_cast<const char*>(data), bytes});
      munmap(data, bytes);
    }
  }
  close(file);
  return summary;
}

bool starts_like_onnx(std::string_view first_bytes) noexcept {
  // The first field is the IR version: a small number.
  return first_bytes.size() >= 2 && first_bytes[0] == '\x08' && first_bytes[1] > 0 &&
         first_bytes[1] < 64;
}

}  // namespace millrace
