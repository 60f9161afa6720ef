#include "server/grpc/methods.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "base/text.h"
#include "base/try.h"
#include "server/grpc/health.h"
#include "server/grpc/inference_service.pb.h"

namespace millrace::server {
namespace {

template <class Request, class Response, Result<Response> (*function)(Service&, const Request&)>
Result<std::string> run(Service& service, const std::string& message) {
  Request request;
  if (!request.ParseFromString(message)) {
    return Error{ErrorCode::invalid_argument,
                 concat("malformed ", request.GetTypeName(),
                        ": it is cut off, or not a message of that kind")};
  }
  MILLRACE_ASSIGN(const Response response, function(service, request));
  return response.SerializeAsString();
}

// Health and descriptions.

Result<inference::ServerLiveResponse> server_live(Service& service,
                                                  const inference::ServerLiveRequest&) {
  inference::ServerLiveResponse response;
  response.set_live(service.live());
  return response;
}

Result<inference::ServerReadyResponse> server_ready(Service& service,
                                                    const inference::ServerReadyRequest&) {
  inference::ServerReadyResponse response;
  response.set_ready(service.ready());
  return response;
}

Result<inference::ModelReadyResponse> model_ready(Service& service,
                                                  const inference::ModelReadyRequest& request) {
  MILLRACE_ASSIGN(const bool ready, service.model_ready(request.name(), request.version()));
  inference::ModelReadyResponse response;
  response.set_ready(ready);
  return response;
}

Result<inference::ServerMetadataResponse> server_metadata(Service& service,
                                                          const inference::ServerMetadataRequest&) {
  const ServerMetadata metadata = service.metadata();
  inference::ServerMetadataResponse response;
  response.set_name(metadata.name);
  response.set_version(metadata.version);
  for (const std::string& extension : metadata.extensions) response.add_extensions(extension);
  return response;
}

void add_tensor(const TensorInfo& info, inference::ModelMetadataResponse::TensorMetadata& tensor) {
  tensor.set_name(info.name);
  tensor.set_datatype(std::string(to_string(info.type)));
  for (const std::int64_t size : info.shape) tensor.add_shape(size);
}

Result<inference::ModelMetadataResponse> model_metadata(
    Service& service, const inference::ModelMetadataRequest& request) {
  MILLRACE_ASSIGN(const ModelMetadata metadata,
                  service.model_metadata(request.name(), request.version()));
  inference::ModelMetadataResponse response;
  response.set_name(metadata.name);
  response.set_platform(metadata.platform);
  for (const std::string& version : metadata.versions) response.add_versions(version);
  for (const TensorInfo& info : metadata.inputs) add_tensor(info, *response.add_inputs());
  for (const TensorInfo& info : metadata.outputs) add_tensor(info, *response.add_outputs());
  return response;
}

Result<inference::ModelConfigResponse> model_config(Service& service,
                                                    const inference::ModelConfigRequest& request) {
  MILLRACE_ASSIGN(const auto config, service.model_config(request.name(), request.version()));
  inference::ModelConfigResponse response;
  *response.mutable_config() = *config;
  return response;
}

// Statistics.

void put(const StatisticDuration& from, inference::StatisticDuration& to) {
  to.set_count(from.count);
  to.set_ns(from.ns);
}

void put(const VersionStatistics& from, inference::ModelStatistics& to) {
  to.set_name(from.name);
  to.set_version(from.version);
  to.set_last_inference(from.last_inference_ms);
  to.set_inference_count(from.inference_count);
  to.set_execution_count(from.execution_count);
  inference::InferStatistics& all = *to.mutable_inference_stats();
  put(from.success, *all.mutable_success());
  put(from.fail, *all.mutable_fail());
  put(from.queue, *all.mutable_queue());
  put(from.compute_input, *all.mutable_compute_input());
  put(from.compute_infer, *all.mutable_compute_infer());
  put(from.compute_output, *all.mutable_compute_output());
  put({}, *all.mutable_cache_hit());
  put({}, *all.mutable_cache_miss());
  for (const BatchStatistics& batch : from.batches) {
    inference::InferBatchStatistics& entry = *to.add_batch_stats();
    entry.set_batch_size(batch.batch_size);
    put(batch.compute_input, *entry.mutable_compute_input());
    put(batch.compute_infer, *entry.mutable_compute_infer());
    put(batch.compute_output, *entry.mutable_compute_output());
  }
}

Result<inference::ModelStatisticsResponse> model_statistics(
    Service& service, const inference::ModelStatisticsRequest& request) {
  MILLRACE_ASSIGN(const auto all, service.statistics(request.name(), request.version()));
  inference::ModelStatisticsResponse response;
  for (const VersionStatistics& one : all) put(one, *response.add_model_stats());
  return response;
}

// The repository.

Result<void> expect_no_repository(const std::string& name) {
  if (name.empty()) return {};
  return Error{ErrorCode::unsupported, concat("repository ", quote(name),
                                              ": repositories have no names here; expected an "
                                              "empty repository_name")};
}

Result<inference::RepositoryIndexResponse> repository_index(
    Service& service, const inference::RepositoryIndexRequest& request) {
  MILLRACE_TRY(expect_no_repository(request.repository_name()));
  MILLRACE_ASSIGN(const auto entries, service.repository_index(request.ready()));
  inference::RepositoryIndexResponse response;
  for (const RepositoryEntry& entry : entries) {
    auto& model = *response.add_models();
    model.set_name(entry.name);
    model.set_version(entry.version);
    model.set_state(entry.state);
    model.set_reason(entry.reason);
  }
  return response;
}

Error wrong_parameter(std::string_view name, std::string_view expected) {
  return {ErrorCode::invalid_argument, concat("parameter ", quote(name), ": expected ", expected)};
}

Result<inference::RepositoryModelLoadResponse> load(
    Service& service, const inference::RepositoryModelLoadRequest& request) {
  constexpr std::string_view kFile = "file:";
  MILLRACE_TRY(expect_no_repository(request.repository_name()));
  LoadParameters parameters;
  for (const auto& [name, value] : request.parameters()) {
    if (name == "config") {
      if (!value.has_string_param()) return wrong_parameter(name, "a configuration as JSON");
      parameters.config = value.string_param();
    } else if (name.starts_with(kFile)) {
      if (!value.has_bytes_param()) return wrong_parameter(name, "a file's content, as bytes");
      parameters.files[name.substr(kFile.size())] = value.bytes_param();
    } else {
      return wrong_parameter(name, "\"config\", or \"file:PATH\"");
    }
  }
  MILLRACE_TRY(service.load_model(request.model_name(), parameters));
  return inference::RepositoryModelLoadResponse();
}

Result<inference::RepositoryModelUnloadResponse> unload(
    Service& service, const inference::RepositoryModelUnloadRequest& request) {
  MILLRACE_TRY(expect_no_repository(request.repository_name()));
  bool dependents = false;
  for (const auto& [name, value] : request.parameters()) {
    if (name != "unload_dependents") return wrong_parameter(name, "\"unload_dependents\"");
    if (!value.has_bool_param()) return wrong_parameter(name, "true or false");
    dependents = value.bool_param();
  }
  MILLRACE_TRY(service.unload_model(request.model_name(), dependents));
  return inference::RepositoryModelUnloadResponse();
}

// Shared memory.

Result<inference::SystemSharedMemoryStatusResponse> system_status(
    Service& service, const inference::SystemSharedMemoryStatusRequest& request) {
  MILLRACE_ASSIGN(const MemoryRegions* regions, service.system_memory());
  MILLRACE_ASSIGN(const auto found, regions->status(request.name()));
  inference::SystemSharedMemoryStatusResponse response;
  for (const RegionInfo& info : found) {
    auto& region = (*response.mutable_regions())[info.name];
    region.set_name(info.name);
    region.set_key(info.key);
    region.set_offset(info.offset);
    region.set_byte_size(info.bytes);
  }
  return response;
}

Result<inference::SystemSharedMemoryRegisterResponse> system_register(
    Service& service, const inference::SystemSharedMemoryRegisterRequest& request) {
  MILLRACE_ASSIGN(MemoryRegions * regions, service.system_memory());
  MILLRACE_TRY(regions->register_system(request.name(), request.key(), request.offset(),
                                        request.byte_size()));
  return inference::SystemSharedMemoryRegisterResponse();
}

Result<inference::SystemSharedMemoryUnregisterResponse> system_unregister(
    Service& service, const inference::SystemSharedMemoryUnregisterRequest& request) {
  MILLRACE_ASSIGN(MemoryRegions * regions, service.system_memory());
  regions->unregister(request.name());
  return inference::SystemSharedMemoryUnregisterResponse();
}

Result<inference::CudaSharedMemoryStatusResponse> cuda_status(
    Service& service, const inference::CudaSharedMemoryStatusRequest& request) {
  MILLRACE_ASSIGN(const MemoryRegions* regions, service.cuda_memory());
  MILLRACE_ASSIGN(const auto found, regions->status(request.name()));
  inference::CudaSharedMemoryStatusResponse response;
  for (const RegionInfo& info : found) {
    auto& region = (*response.mutable_regions())[info.name];
    region.set_name(info.name);
    region.set_device_id(static_cast<std::uint64_t>(info.gpu));
    region.set_byte_size(info.bytes);
  }
  return response;
}

Result<inference::CudaSharedMemoryRegisterResponse> cuda_register(
    Service& service, const inference::CudaSharedMemoryRegisterRequest& request) {
  MILLRACE_ASSIGN(MemoryRegions * regions, service.cuda_memory());
  const std::int64_t gpu = request.device_id();
  if (gpu < 0 || gpu > std::numeric_limits<int>::max()) {
    return Error{ErrorCode::invalid_argument, concat("device_id: expected a GPU, got ", gpu)};
  }
  const std::string& handle = request.raw_handle();
  MILLRACE_TRY(regions->register_cuda(request.name(), std::as_bytes(std::span(handle)),
                                      static_cast<int>(gpu), request.byte_size()));
  return inference::CudaSharedMemoryRegisterResponse();
}

Result<inference::CudaSharedMemoryUnregisterResponse> cuda_unregister(
    Service& service, const inference::CudaSharedMemoryUnregisterRequest& request) {
  MILLRACE_ASSIGN(MemoryRegions * regions, service.cuda_memory());
  regions->unregister(request.name());
  return inference::CudaSharedMemoryUnregisterResponse();
}

// Settings.

void put(const Setting& from, inference::TraceSettingResponse::SettingValue& to) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&from.value)) {
    for (const std::string& one : *list) to.add_value(one);
  } else if (const auto* text = std::get_if<std::string>(&from.value)) {
    to.add_value(*text);
  } else if (const auto* number = std::get_if<std::int64_t>(&from.value)) {
    to.add_value(concat(*number));
  } else if (const auto* flag = std::get_if<bool>(&from.value)) {
    to.add_value(concat(*flag));
  }
}

void put(const Setting& from, inference::LogSettingsResponse::SettingValue& to) {
  if (const auto* flag = std::get_if<bool>(&from.value)) {
    to.set_bool_param(*flag);
  } else if (const auto* number = std::get_if<std::int64_t>(&from.value)) {
    to.set_uint32_param(static_cast<std::uint32_t>(*number));
  } else if (const auto* text = std::get_if<std::string>(&from.value)) {
    to.set_string_param(*text);
  }
}

void sort_by_name(Settings& settings) {
  std::sort(settings.begin(), settings.end(),
            [](const Setting& a, const Setting& b) { return a.name < b.name; });
}

Result<inference::TraceSettingResponse> trace_setting(
    Service& service, const inference::TraceSettingRequest& request) {
  Settings changes;
  for (const auto& [name, value] : request.settings()) {
    Setting& change = changes.emplace_back(Setting{name, {}});
    if (value.value_size() == 1) change.value = value.value(0);
    if (value.value_size() > 1) {
      change.value = std::vector<std::string>(value.value().begin(), value.value().end());
    }
  }
  sort_by_name(changes);
  MILLRACE_ASSIGN(const Settings settings,
                  changes.empty() ? service.trace_settings(request.model_name())
                                  : service.change_trace_settings(request.model_name(), changes));
  inference::TraceSettingResponse response;
  for (const Setting& setting : settings) {
    put(setting, (*response.mutable_settings())[setting.name]);
  }
  return response;
}

Result<inference::LogSettingsResponse> log_settings(Service& service,
                                                    const inference::LogSettingsRequest& request) {
  Settings changes;
  for (const auto& [name, value] : request.settings()) {
    Setting& change = changes.emplace_back(Setting{name, {}});
    if (value.has_bool_param()) change.value = value.bool_param();
    if (value.has_uint32_param()) {
      change.value = static_cast<std::int64_t>(value.uint32_param());
    }
    if (value.has_string_param()) change.value = value.string_param();
  }
  sort_by_name(changes);
  MILLRACE_ASSIGN(const Settings settings,
                  changes.empty() ? service.log_settings() : service.change_log_settings(changes));
  inference::LogSettingsResponse response;
  for (const Setting& setting : settings) {
    put(setting, (*response.mutable_settings())[setting.name]);
  }
  return response;
}

#define MILLRACE_METHOD(name, function, access, slow)                      \
  Method {                                                                 \
    "/inference.GRPCInferenceService/" #name, access, slow,                \
        run<inference::name##Request, inference::name##Response, function> \
  }

constexpr Method kMethods[] = {
    {kHealthCheckPath, Access::open, false, check_health},
    MILLRACE_METHOD(ServerLive, server_live, Access::open, false),
    MILLRACE_METHOD(ServerReady, server_ready, Access::open, false),
    MILLRACE_METHOD(ModelReady, model_ready, Access::open, false),
    MILLRACE_METHOD(ServerMetadata, server_metadata, Access::client, false),
    MILLRACE_METHOD(ModelMetadata, model_metadata, Access::client, false),
    MILLRACE_METHOD(ModelConfig, model_config, Access::client, false),
    MILLRACE_METHOD(ModelStatistics, model_statistics, Access::client, false),
    MILLRACE_METHOD(RepositoryIndex, repository_index, Access::client, true),
    MILLRACE_METHOD(RepositoryModelLoad, load, Access::control, true),
    MILLRACE_METHOD(RepositoryModelUnload, unload, Access::control, true),
    MILLRACE_METHOD(SystemSharedMemoryStatus, system_status, Access::control, false),
    MILLRACE_METHOD(SystemSharedMemoryRegister, system_register, Access::control, true),
    MILLRACE_METHOD(SystemSharedMemoryUnregister, system_unregister, Access::control, true),
    MILLRACE_METHOD(CudaSharedMemoryStatus, cuda_status, Access::control, false),
    MILLRACE_METHOD(CudaSharedMemoryRegister, cuda_register, Access::control, true),
    MILLRACE_METHOD(CudaSharedMemoryUnregister, cuda_unregister, Access::control, true),
    MILLRACE_METHOD(TraceSetting, trace_setting, Access::control, false),
    MILLRACE_METHOD(LogSettings, log_settings, Access::control, false),
};

#undef MILLRACE_METHOD

}  // namespace

const Method* find_method(std::string_view path) {
  const auto* found = std::find_if(std::begin(kMethods), std::end(kMethods),
                                   [&](const Method& method) { return method.path == path; });
  return found == std::end(kMethods) ? nullptr : found;
}

}  // namespace millrace::server
