// What servers answer besides inferences, from the messages of gRPC, whose JSON is that of HTTP.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "client/client.h"

namespace google::protobuf {
class Message;
}
namespace inference {
class ModelMetadataResponse;
class ModelStatisticsResponse;
class RepositoryIndexResponse;
class ServerMetadataResponse;
}  // namespace inference

namespace millrace::client {

[[nodiscard]] server::ServerMetadata server_metadata_of(
    const inference::ServerMetadataResponse& message);
/// Errors: unsupported for a data type that is not known.
[[nodiscard]] Result<server::ModelMetadata> model_metadata_of(
    const inference::ModelMetadataResponse& message);
[[nodiscard]] std::vector<server::VersionStatistics> statistics_of(
    const inference::ModelStatisticsResponse& message);
[[nodiscard]] std::vector<RepositoryEntry> index_of(
    const inference::RepositoryIndexResponse& message);

/// Reads JSON into a message; fields that it does not have are left out. Errors: internal.
[[nodiscard]] Result<void> read_json(std::string_view json, google::protobuf::Message& message);

}  // namespace millrace::client
