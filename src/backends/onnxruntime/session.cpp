#include "backends/onnxruntime/session.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <system_error>

#include "backends/onnx_file.h"
#include "base/log.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace::onnxruntime {
namespace {

constexpr std::pair<DataType, ONNXTensorElementDataType> kTypes[] = {
    {DataType::boolean, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
    {DataType::uint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {DataType::uint16, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16},
    {DataType::uint32, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32},
    {DataType::uint64, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64},
    {DataType::int8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {DataType::int16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16},
    {DataType::int32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {DataType::int64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {DataType::fp16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {DataType::bf16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16},
    {DataType::fp32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {DataType::fp64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
    {DataType::fp8_e4m3, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN},
    {DataType::fp8_e5m2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2},
    {DataType::bytes, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING},
};

std::string_view name_of(ONNXType type) noexcept {
  switch (type) {
    case ONNX_TYPE_SEQUENCE:
      return "a sequence";
    case ONNX_TYPE_MAP:
      return "a map";
    case ONNX_TYPE_OPAQUE:
      return "of an opaque type";
    case ONNX_TYPE_SPARSETENSOR:
      return "a sparse tensor";
    case ONNX_TYPE_OPTIONAL:
      return "an optional value";
    default:
      return "of an unknown kind";
  }
}

std::string_view name_of(ONNXTensorElementDataType type) noexcept {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64:
      return "complex64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128:
      return "complex128";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ:
      return "float8e4m3fnuz";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ:
      return "float8e5m2fnuz";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4:
      return "uint4";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4:
      return "int4";
    default:
      return "unknown";
  }
}

// --- Options ---

template <class T>
Result<T> choose(std::string_view option, std::string_view text,
                 std::span<const std::pair<std::string_view, T>> choices) {
  std::vector<std::string_view> known;
  for (const auto& [name, value] : choices) {
    if (name == text) return value;
    known.push_back(name);
  }
  return Error{ErrorCode::invalid_argument, concat("option \"", option, "\": expected one of ",
                                                   join(known, ", "), ", got ", quote(text))};
}

Result<void> set_option(SessionOptions& options, std::string_view name, std::string_view text) {
  constexpr std::pair<std::string_view, GraphOptimizationLevel> kLevels[] = {
      {"disable", ORT_DISABLE_ALL},
      {"basic", ORT_ENABLE_BASIC},
      {"extended", ORT_ENABLE_EXTENDED},
      {"all", ORT_ENABLE_ALL}};
  constexpr std::pair<std::string_view, ExecutionMode> kModes[] = {{"sequential", ORT_SEQUENTIAL},
                                                                   {"parallel", ORT_PARALLEL}};
  constexpr std::pair<std::string_view, bool> kAxis[] = {{"auto", true}, {"off", false}};
  constexpr std::pair<std::string_view, bool> kSwitch[] = {{"0", false}, {"1", true}};
  constexpr std::int64_t kMostThreads = 4096;
  if (name == "intra_op_threads") {
    MILLRACE_ASSIGN(const std::int64_t threads,
                    parse_integer(text, "option \"intra_op_threads\"", 1, kMostThreads));
    options.intra_op_threads = static_cast<int>(threads);
  } else if (name == "inter_op_threads") {
    MILLRACE_ASSIGN(const std::int64_t threads,
                    parse_integer(text, "option \"inter_op_threads\"", 1, kMostThreads));
    options.inter_op_threads = static_cast<int>(threads);
  } else if (name == "spinning") {
    MILLRACE_ASSIGN(options.spinning, choose<bool>(name, text, kSwitch));
  } else if (name == "graph_optimization") {
    MILLRACE_ASSIGN(options.graph_optimization,
                    choose<GraphOptimizationLevel>(name, text, kLevels));
  } else if (name == "execution_mode") {
    MILLRACE_ASSIGN(options.execution_mode, choose<ExecutionMode>(name, text, kModes));
  } else if (name == "batch_axis") {
    MILLRACE_ASSIGN(options.batch_axis, choose<bool>(name, text, kAxis));
  } else if (name == "profile") {
    options.profile = text;
  } else {
    return Error{ErrorCode::invalid_argument,
                 concat("the onnxruntime backend has no option ", quote(name),
                        "; it has batch_axis, "
                        "execution_mode, graph_optimization, inter_op_threads, intra_op_threads, "
                        "profile, spinning")};
  }
  return {};
}

// --- Files ---

Result<void> check_file(const std::string& path, std::string_view title) {
  std::error_code error;
  const auto refuse = [&](ErrorCode code, std::string_view what) {
    return Error{code, concat(title, ": ", quote(path), " ", what)};
  };
  if (!std::filesystem::exists(path, error)) return refuse(ErrorCode::not_found, "does not exist");
  if (!std::filesystem::is_regular_file(path, error))
    return refuse(ErrorCode::invalid_argument, "is not a file");
  if (!std::ifstream(path, std::ios::binary)) {
    return refuse(ErrorCode::unavailable, concat("cannot be read: ", std::strerror(errno)));
  }
  if (std::filesystem::file_size(path, error) == 0) {
    return refuse(ErrorCode::invalid_argument, "is empty; expected an ONNX model");
  }
  return {};
}

std::size_t size_of_model(const ModelSpec& spec) {
  if (spec.content) return spec.content->size();
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(spec.path, error);
  return error ? 0 : static_cast<std::size_t>(bytes);
}

// --- Inputs and outputs ---

// A tensor's first dimension as the model names it; "" when it has no name.
struct Described {
  TensorInfo info;
  std::string first_symbol;
};

struct Side {
  std::string_view word;  // "input", "output"
  OrtStatus*(ORT_API_CALL* type)(const OrtSession*, std::size_t, OrtTypeInfo**) noexcept;
  const std::vector<std::string>* shapeless;
};

Result<Described> describe_tensor(const Session& session, const Side& side, std::string name,
                                  const OrtTypeInfo* type) {
  const auto refuse = [&](const auto&... pieces) {
    return Error{ErrorCode::unsupported,
                 concat(session.title(), ": ", side.word, " ", quote(name), " is ", pieces...)};
  };
  ONNXType kind = ONNX_TYPE_UNKNOWN;
  MILLRACE_TRY(check(api().GetOnnxTypeFromTypeInfo(type, &kind), session.title()));
  if (kind != ONNX_TYPE_TENSOR) return refuse(name_of(kind), "; only tensors can be used");
  const OrtTensorTypeAndShapeInfo* tensor = nullptr;  // belongs to `type`
  MILLRACE_TRY(check(api().CastTypeInfoToTensorInfo(type, &tensor), session.title()));
  ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  MILLRACE_TRY(check(api().GetTensorElementType(tensor, &element), session.title()));
  const std::optional<DataType> data_type = data_type_of(element);
  if (!data_type)
    return refuse("a tensor of ", name_of(element), ", which has no counterpart here");
  std::size_t rank = 0;
  MILLRACE_TRY(check(api().GetDimensionsCount(tensor, &rank), session.title()));
  if (rank > kMaxRank)
    return refuse("a tensor of ", rank, " dimensions; at most ", kMaxRank, " can be used");
  if (rank == 0 && std::ranges::find(*side.shapeless, name) != side.shapeless->end()) {
    return refuse(
        "a tensor whose number of dimensions the model does not say; give it a shape in the model");
  }
  std::array<std::int64_t, kMaxRank> dims{};
  std::array<const char*, kMaxRank> symbols{};
  MILLRACE_TRY(check(api().GetDimensions(tensor, dims.data(), rank), session.title()));
  MILLRACE_TRY(check(api().GetSymbolicDimensions(tensor, symbols.data(), rank), session.title()));
  Described described;
  described.info.type = *data_type;
  for (std::size_t i = 0; i < rank; ++i)
    described.info.shape.push_back(dims[i] < 0 ? kDynamic : dims[i]);
  if (rank > 0 && symbols[0] != nullptr) described.first_symbol = symbols[0];
  described.info.name = std::move(name);
  return described;
}

// Whether the first dimension of all tensors is one and the same free one.
bool has_batch_axis(std::span<const Described> tensors) {
  std::string_view symbol;
  for (const Described& tensor : tensors) {
    if (tensor.info.shape.empty() || tensor.info.shape[0] != kDynamic) return false;
    if (tensor.first_symbol.empty()) continue;
    if (!symbol.empty() && symbol != tensor.first_symbol) return false;
    symbol = tensor.first_symbol;
  }
  return true;
}

// Text that the library allocated.
class LibraryText {
 public:
  explicit LibraryText(OrtAllocator* allocator) : allocator_(allocator) {}
  LibraryText(const LibraryText&) = delete;
  LibraryText& operator=(const LibraryText&) = delete;
  ~LibraryText() {
    if (text_ != nullptr) allocator_->Free(allocator_, text_);
  }
  [[nodiscard]] char** out() noexcept { return &text_; }
  [[nodiscard]] std::string_view view() const noexcept {
    return text_ == nullptr ? std::string_view() : text_;
  }

 private:
  OrtAllocator* allocator_;
  char* text_ = nullptr;
};

OrtAllocator* default_allocator() {
  OrtAllocator* allocator = nullptr;
  (void)check(api().GetAllocatorWithDefaultOptions(&allocator), "");
  return allocator;
}

}  // namespace

std::optional<DataType> data_type_of(ONNXTensorElementDataType type) noexcept {
  for (const auto& [ours, theirs] : kTypes) {
    if (theirs == type) return ours;
  }
  return std::nullopt;
}

ONNXTensorElementDataType element_type_of(DataType type) noexcept {
  for (const auto& [ours, theirs] : kTypes) {
    if (ours == type) return theirs;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

Result<SessionOptions> parse_session_options(const std::map<std::string, std::string>& texts) {
  SessionOptions options;
  for (const auto& [name, text] : texts) MILLRACE_TRY(set_option(options, name, text));
  return options;
}

Session::Session(const ModelSpec& spec, std::shared_ptr<Runtime> runtime)
    : name_(spec.name),
      title_(
          concat("model ", quote(spec.name), " (ONNX Runtime ", runtime->library().version, ")")),
      runtime_(std::move(runtime)) {}

Session::~Session() {
  if (!profiling_ || !session_) return;
  LibraryText file(default_allocator());
  if (check(api().SessionEndProfiling(session_.get(), default_allocator(), file.out()), title_)
          .ok()) {
    log_info(title_, ": profile written to ", file.view());
  }
}

Result<std::shared_ptr<Session>> Session::load(const ModelSpec& spec, MemoryLedger& ledger) {
  const auto with_name = [&](Error error) {
    error.message = concat("model ", quote(spec.name), ": ", error.message);
    return error;
  };
  auto options = parse_session_options(spec.options);
  if (!options.ok()) return with_name(std::move(options).error());
  auto runtime = Runtime::share(
      {spec.cpu_threads, options->intra_op_threads, options->inter_op_threads, options->spinning});
  if (!runtime.ok()) return with_name(std::move(runtime).error());
  if (options->execution_mode == ORT_PARALLEL && (*runtime)->threads().inter_op < 2) {
    return with_name({ErrorCode::invalid_argument,
                      "execution_mode=parallel needs inter_op_threads of at least 2 for the first "
                      "model loaded"});
  }
  std::shared_ptr<Session> session(new Session(spec, std::move(runtime).value()));
  if (spec.content && spec.content->empty()) {
    return Error{ErrorCode::invalid_argument,
                 concat(session->title_, ": the model is empty; expected an ONNX model")};
  }
  if (!spec.content) MILLRACE_TRY(check_file(spec.path, session->title_));
  const OnnxSummary summary =
      spec.content ? summarize_onnx(*spec.content) : summarize_onnx_file(spec.path);
  session->weights_bytes_ =
      summary.complete ? static_cast<std::size_t>(summary.weights_bytes) : size_of_model(spec);
  MILLRACE_ASSIGN(session->reservation_,
                  ledger.reserve(concat("model \"", spec.name, "\""), session->weights_bytes_));
  MILLRACE_TRY(session->open(spec, *options));
  MILLRACE_TRY(session->describe(summary, *options));
  MILLRACE_TRY(session->describe_metadata(summary));
  session->info_.default_lanes = runs_at_a_time(spec.cpu_threads, session->runtime_->threads());
  return session;
}

Result<void> Session::open(const ModelSpec& spec, const SessionOptions& options) {
  Owned<OrtSessionOptions> made_options;
  MILLRACE_TRY(check(api().CreateSessionOptions(made(made_options)), title_));
  OrtSessionOptions* const to = made_options.get();
  const ThreadSettings& threads = runtime_->threads();
  if (threads.workers() > 0) {
    MILLRACE_TRY(check(api().DisablePerSessionThreads(to), title_));
  } else {  // no pool at all, whoever made the library's environment
    MILLRACE_TRY(check(api().SetIntraOpNumThreads(to, 1), title_));
    MILLRACE_TRY(check(api().SetInterOpNumThreads(to, 1), title_));
  }
  const char* const spinning = threads.spinning ? "1" : "0";
  MILLRACE_TRY(
      check(api().AddSessionConfigEntry(to, "session.intra_op.allow_spinning", spinning), title_));
  MILLRACE_TRY(
      check(api().AddSessionConfigEntry(to, "session.inter_op.allow_spinning", spinning), title_));
  MILLRACE_TRY(
      check(api().SetSessionGraphOptimizationLevel(to, options.graph_optimization), title_));
  MILLRACE_TRY(check(api().SetSessionExecutionMode(to, options.execution_mode), title_));
  MILLRACE_TRY(check(api().SetSessionLogId(to, name_.c_str()), title_));
  if (!options.profile.empty()) {
    MILLRACE_TRY(check(api().EnableProfiling(to, options.profile.c_str()), title_));
    profiling_ = true;
  }
  if (spec.content) {
    return check(api().CreateSessionFromArray(runtime_->env(), spec.content->data(),
                                              spec.content->size(), to, made(session_)),
                 title_);
  }
  return check(api().CreateSession(runtime_->env(), spec.path.c_str(), to, made(session_)), title_);
}

Result<void> Session::describe(const OnnxSummary& summary, const SessionOptions& options) {
  OrtAllocator* const allocator = default_allocator();
  std::size_t inputs = 0;
  std::size_t outputs = 0;
  MILLRACE_TRY(check(api().SessionGetInputCount(get(), &inputs), title_));
  MILLRACE_TRY(check(api().SessionGetOutputCount(get(), &outputs), title_));
  if (inputs == 0) {
    return Error{ErrorCode::unsupported,
                 concat(title_, ": has no inputs, so there is nothing to ask it for")};
  }
  const Side input_side = {"input", api().SessionGetInputTypeInfo, &summary.shapeless_inputs};
  const Side output_side = {"output", api().SessionGetOutputTypeInfo, &summary.shapeless_outputs};
  std::vector<Described> tensors;
  for (std::size_t i = 0; i < inputs + outputs; ++i) {
    const bool is_input = i < inputs;
    const Side& side = is_input ? input_side : output_side;
    const std::size_t index = is_input ? i : i - inputs;
    LibraryText name(allocator);
    MILLRACE_TRY(check(is_input ? api().SessionGetInputName(get(), index, allocator, name.out())
                                : api().SessionGetOutputName(get(), index, allocator, name.out()),
                       title_));
    Owned<OrtTypeInfo> type;
    MILLRACE_TRY(check(side.type(get(), index, made(type)), title_));
    MILLRACE_ASSIGN(Described tensor,
                    describe_tensor(*this, side, std::string(name.view()), type.get()));
    tensors.push_back(std::move(tensor));
  }
  const bool batched = options.batch_axis && has_batch_axis(tensors);
  info_.max_items = batched ? 0 : 1;
  info_.lanes_share_weights = true;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].info.batch_axis = batched ? 0 : -1;
    (i < inputs ? info_.inputs : info_.outputs).push_back(std::move(tensors[i].info));
  }
  for (const TensorInfo& input : info_.inputs) input_names_.push_back(input.name.c_str());
  for (const TensorInfo& output : info_.outputs) output_names_.push_back(output.name.c_str());
  return {};
}

Result<void> Session::describe_metadata(const OnnxSummary& summary) {
  OrtAllocator* const allocator = default_allocator();
  Owned<OrtModelMetadata> metadata;
  MILLRACE_TRY(check(api().SessionGetModelMetadata(get(), made(metadata)), title_));
  const auto add = [&](std::string_view name, std::string_view value) {
    if (!value.empty()) info_.metadata.emplace_back(name, value);
  };
  struct Text {
    std::string_view name;
    decltype(OrtApi::ModelMetadataGetProducerName) get;
  };
  const Text texts[] = {
      {"producer", api().ModelMetadataGetProducerName},
      {"graph", api().ModelMetadataGetGraphName},
      {"domain", api().ModelMetadataGetDomain},
      {"description", api().ModelMetadataGetDescription},
      {"graph description", api().ModelMetadataGetGraphDescription},
  };
  for (const auto& [name, get_text] : texts) {
    LibraryText text(allocator);
    MILLRACE_TRY(check(get_text(metadata.get(), allocator, text.out()), title_));
    add(name, text.view());
  }
  std::int64_t version = 0;
  MILLRACE_TRY(check(api().ModelMetadataGetVersion(metadata.get(), &version), title_));
  // The largest number is what exporters write for "none".
  if (version > 0 && version < std::numeric_limits<std::int64_t>::max())
    add("version", concat(version));
  if (summary.ir_version > 0) add("IR version", concat(summary.ir_version));
  for (const auto& [domain, opset] : summary.opsets) {
    add(domain.empty() ? std::string("opset") : concat("opset ", domain), concat(opset));
  }
  char** keys = nullptr;
  std::int64_t count = 0;
  MILLRACE_TRY(
      check(api().ModelMetadataGetCustomMetadataMapKeys(metadata.get(), allocator, &keys, &count),
            title_));
  for (std::int64_t i = 0; i < count; ++i) {
    LibraryText value(allocator);
    if (check(api().ModelMetadataLookupCustomMetadataMap(metadata.get(), allocator, keys[i],
                                                         value.out()),
              title_)
            .ok()) {
      add(keys[i], value.view());
    }
    allocator->Free(allocator, keys[i]);
  }
  if (keys != nullptr) allocator->Free(allocator, keys);
  return {};
}

}  // namespace millrace::onnxruntime
