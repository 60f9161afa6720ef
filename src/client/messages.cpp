#include "client/messages.h"

#include <google/protobuf/util/json_util.h>

#include "base/text.h"
#include "base/try.h"
#include "server/grpc/inference_service.pb.h"

namespace millrace::client {
namespace {

template <class Fields>
Result<std::vector<TensorInfo>> tensors_of(const Fields& fields) {
  std::vector<TensorInfo> tensors;
  for (const inference::ModelMetadataResponse::TensorMetadata& field : fields) {
    TensorInfo tensor;
    tensor.name = field.name();
    Result<DataType> type = parse_data_type(field.datatype());
    if (!type.ok()) {
      return Error{ErrorCode::unsupported,
                   concat("tensor ", quote(tensor.name), ": ", type.error().message)};
    }
    tensor.type = *type;
    if (field.shape_size() > static_cast<int>(kMaxRank)) {
      return Error{ErrorCode::unsupported,
                   concat("tensor ", quote(tensor.name), " has ", field.shape_size(),
                          " dimensions; the most are ", kMaxRank)};
    }
    for (const std::int64_t size : field.shape()) tensor.shape.push_back(size);
    if (tensor.shape.rank() > 0 && tensor.shape[0] == kDynamic) tensor.batch_axis = 0;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

server::StatisticDuration duration_of(const inference::StatisticDuration& message) {
  return {message.count(), message.ns()};
}

server::VersionStatistics version_of(const inference::ModelStatistics& message) {
  server::VersionStatistics version;
  version.name = message.name();
  version.version = message.version();
  version.last_inference_ms = message.last_inference();
  version.inference_count = message.inference_count();
  version.execution_count = message.execution_count();
  const inference::InferStatistics& all = message.inference_stats();
  version.success = duration_of(all.success());
  version.fail = duration_of(all.fail());
  version.queue = duration_of(all.queue());
  version.compute_input = duration_of(all.compute_input());
  version.compute_infer = duration_of(all.compute_infer());
  version.compute_output = duration_of(all.compute_output());
  for (const inference::InferBatchStatistics& batch : message.batch_stats()) {
    version.batches.push_back({batch.batch_size(), duration_of(batch.compute_input()),
                               duration_of(batch.compute_infer()),
                               duration_of(batch.compute_output())});
  }
  return version;
}

}  // namespace

server::ServerMetadata server_metadata_of(const inference::ServerMetadataResponse& message) {
  return {message.name(),
          message.version(),
          {message.extensions().begin(), message.extensions().end()}};
}

Result<server::ModelMetadata> model_metadata_of(const inference::ModelMetadataResponse& message) {
  server::ModelMetadata model;
  model.name = message.name();
  model.versions.assign(message.versions().begin(), message.versions().end());
  model.platform = message.platform();
  MILLRACE_ASSIGN(model.inputs, tensors_of(message.inputs()));
  MILLRACE_ASSIGN(model.outputs, tensors_of(message.outputs()));
  return model;
}

std::vector<server::VersionStatistics> statistics_of(
    const inference::ModelStatisticsResponse& message) {
  std::vector<server::VersionStatistics> versions;
  for (const inference::ModelStatistics& version : message.model_stats()) {
    versions.push_back(version_of(version));
  }
  return versions;
}

std::vector<RepositoryEntry> index_of(const inference::RepositoryIndexResponse& message) {
  std::vector<RepositoryEntry> entries;
  for (const auto& model : message.models()) {
    entries.push_back({model.name(), model.version(), model.state(), model.reason()});
  }
  return entries;
}

Result<void> read_json(std::string_view json, google::protobuf::Message& message) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;
  const auto status =
      google::protobuf::util::JsonStringToMessage({json.data(), json.size()}, &message, options);
  if (status.ok()) return {};
  return Error{ErrorCode::internal,
               concat("the server's answer is not the JSON that was expected: ",
                      std::string(status.message()))};
}

}  // namespace millrace::client
