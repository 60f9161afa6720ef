#include "client/grpc_message.h"

#include <algorithm>
#include <limits>

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include "base/text.h"
#include "base/try.h"
#include "client/http_message.h"
#include "server/grpc/inference_service.pb.h"
#include "server/wire_bytes.h"

namespace millrace::client {
namespace {

constexpr std::uint8_t kRawInputTag = 7 << 3 | 2;  // raw_input_contents, with a length
constexpr std::size_t kCopiedBelow = 4096;         // bytes of an input
constexpr std::size_t kLargestMessage = std::numeric_limits<std::int32_t>::max();

Error broken(std::string what) {
  return {ErrorCode::internal, "the server's answer cannot be read: " + std::move(what)};
}

template <class Parameters>
void set_region(Parameters& parameters, const server::RegionSlice& slice) {
  parameters["shared_memory_region"].set_string_param(slice.region);
  parameters["shared_memory_offset"].set_int64_param(static_cast<std::int64_t>(slice.offset));
  parameters["shared_memory_byte_size"].set_int64_param(static_cast<std::int64_t>(slice.bytes));
}

// The raw contents behind the message, in slices.
class RawContents {
 public:
  explicit RawContents(std::string message) : text_(std::move(message)) {}

  void add(const NamedTensor& input, std::size_t bytes) {
    add_length(bytes);
    const char* const data = static_cast<const char*>(input.view.data);
    if (bytes < kCopiedBelow || !input.lease) {
      text_.append(data, bytes);
      return;
    }
    end_text();
    slices_.emplace_back(
        const_cast<char*>(data), bytes, [](void* lease) { delete static_cast<Lease*>(lease); },
        new Lease(input.lease));
  }
  void add_text(const TensorView& view) {
    const std::size_t bytes = server::wire_bytes_size(view);
    add_length(bytes);
    text_.resize(text_.size() + bytes);
    server::write_wire_bytes(view,
                             reinterpret_cast<std::byte*>(text_.data() + text_.size() - bytes));
  }
  grpc::ByteBuffer finish() {
    end_text();
    return {slices_.data(), slices_.size()};
  }

 private:
  void add_length(std::size_t bytes) {
    std::uint8_t field[1 + 10] = {kRawInputTag};
    const std::uint8_t* const end =
        google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(bytes, field + 1);
    text_.append(reinterpret_cast<const char*>(field), static_cast<std::size_t>(end - field));
  }
  void end_text() {
    if (!text_.empty()) slices_.emplace_back(text_);
    text_.clear();
  }
  std::string text_;
  std::vector<grpc::Slice> slices_;
};

Result<bool> add_input(inference::ModelInferRequest& message, const NamedTensor& input,
                       const RegionTable& regions, std::size_t& bytes) {
  auto& field = *message.add_inputs();
  field.set_name(input.name);
  field.set_datatype(std::string(to_string(input.view.type)));
  field.mutable_shape()->Add(input.view.shape.begin(), input.view.shape.end());
  if (!input.view.contiguous()) {
    return Error{ErrorCode::invalid_argument,
                 concat("input ", quote(input.name), " is strided; expected contiguous memory")};
  }
  if (input.view.type == DataType::bytes) {
    bytes = server::wire_bytes_size(input.view);
    return true;
  }
  MILLRACE_ASSIGN(bytes, input.view.bytes());
  if (const auto slice = regions.find(input.view.data, bytes, input.view.device)) {
    set_region(*field.mutable_parameters(), *slice);
    return false;
  }
  if (input.view.device.kind == DeviceKind::host) return true;
  return Error{ErrorCode::invalid_argument,
               concat("input ", quote(input.name), " lies on ", to_string(input.view.device),
                      " and in no registered region; expected host memory")};
}

Result<void> add_output(inference::ModelInferRequest& message, const RequestedOutput& output,
                        const RegionTable& regions) {
  auto& field = *message.add_outputs();
  field.set_name(output.name);
  if (output.placement != OutputPlacement::target) return {};
  MILLRACE_ASSIGN(const std::size_t bytes, output.target.bytes());
  if (const auto slice = regions.find(output.target.data, bytes, output.target.device)) {
    set_region(*field.mutable_parameters(), *slice);
  }
  return {};
}

Result<NamedTensor> tensor_of(const inference::ModelInferResponse::InferOutputTensor& field,
                              const std::string* raw, const Lease& message,
                              const Request& request) {
  NamedTensor out;
  out.name = field.name();
  Result<DataType> type = parse_data_type(field.datatype());
  if (!type.ok()) return broken(type.error().message);
  if (field.shape_size() > static_cast<int>(kMaxRank)) return broken("too many dimensions");
  Shape shape;
  for (const std::int64_t size : field.shape()) {
    if (size < 0) return broken(concat("a dimension of ", size));
    shape.push_back(size);
  }
  if (field.parameters().contains("shared_memory_region")) {
    for (const RequestedOutput& asked : request.outputs) {
      if (asked.name != out.name) continue;
      out.view = TensorView::of(*type, asked.target.data, shape, asked.target.device);
      out.lease = asked.lease;
      return out;
    }
    return broken(concat("output ", quote(out.name), " in a region unasked"));
  }
  if (!raw) {
    return Error{ErrorCode::unsupported, concat("output ", quote(out.name),
                                                " came without raw_output_contents, which this "
                                                "client reads alone")};
  }
  if (*type == DataType::bytes) {
    MILLRACE_ASSIGN(const Tensor texts,
                    server::read_wire_bytes(std::as_bytes(std::span(*raw)), shape,
                                            concat("output ", quote(out.name))));
    out.view = texts.view();
    out.lease = texts.lease();
    return out;
  }
  MILLRACE_ASSIGN(const std::size_t expected, byte_count(*type, shape));
  if (raw->size() != expected) {
    return broken(concat("output ", quote(out.name), " of ", *type, " ", shape, " has ",
                         raw->size(), " bytes, not ", expected));
  }
  out.view = TensorView::of(*type, raw->data(), shape);
  out.lease = message;
  MILLRACE_TRY(deliver(out, request));
  return out;
}

}  // namespace

Result<grpc::ByteBuffer> write_request(const ModelName& model, const Request& request,
                                       const RegionTable& regions) {
  inference::ModelInferRequest message;
  message.set_model_name(model.name);
  message.set_model_version(model.version);
  message.set_id(request.id);
  if (request.priority != 0) {
    (*message.mutable_parameters())["priority"].set_int64_param(request.priority);
  }
  std::vector<std::pair<const NamedTensor*, std::size_t>> raw;
  std::size_t total = 0;
  for (const NamedTensor& input : request.inputs) {
    std::size_t bytes = 0;
    MILLRACE_ASSIGN(const bool sent, add_input(message, input, regions, bytes));
    if (!sent) continue;
    raw.emplace_back(&input, bytes);
    total += bytes;
  }
  if (total > kLargestMessage - 65536) {
    return Error{ErrorCode::invalid_argument,
                 concat("inputs of ", total, " bytes do not fit a message of gRPC, at most 2 GiB; ",
                        "use shared memory")};
  }
  for (const RequestedOutput& output : request.outputs) {
    MILLRACE_TRY(add_output(message, output, regions));
  }
  RawContents contents(message.SerializeAsString());
  for (const auto& [input, bytes] : raw) {
    if (input->view.type == DataType::bytes) {
      contents.add_text(input->view);
    } else {
      contents.add(*input, bytes);
    }
  }
  return contents.finish();
}

Result<Response> read_answer(grpc::ByteBuffer& buffer, const Request& request) {
  auto message = std::make_shared<inference::ModelInferResponse>();
  const grpc::Status read =
      grpc::SerializationTraits<inference::ModelInferResponse>::Deserialize(&buffer, message.get());
  if (!read.ok()) return broken(read.error_message());
  const Lease lease = Lease::share(message);
  Response response;
  response.id = message->id();
  for (int i = 0; i < message->outputs_size(); ++i) {
    const std::string* const raw =
        i < message->raw_output_contents_size() ? &message->raw_output_contents(i) : nullptr;
    MILLRACE_ASSIGN(NamedTensor tensor, tensor_of(message->outputs(i), raw, lease, request));
    response.outputs.push_back(std::move(tensor));
  }
  return response;
}

}  // namespace millrace::client
