#include "cli/server_target.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <ctime>

#include "base/text.h"
#include "base/try.h"

namespace millrace::cli {
namespace {

using client::Client;
using client::CudaMemory;
using client::SharedMemory;

constexpr std::size_t kRegionBytes = std::size_t{16} << 20;
constexpr std::size_t kAlignment = 256;

/// CPU time and memory of another process.
class Process {
 public:
  static Result<Process> open(int pid) {
    Process process;
    process.pid_ = pid;
    timespec time{};
    if (pid > 0 && (clock_getcpuclockid(pid, &process.clock_) != 0 ||
                    clock_gettime(process.clock_, &time) != 0)) {
      return Error{ErrorCode::not_found, concat("--server-pid: there is no process ", pid)};
    }
    return process;
  }
  void look(ServerTotals& totals) const {
    timespec time{};
    if (pid_ == 0 || clock_gettime(clock_, &time) != 0) return;
    totals.cpu_s = static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
    std::FILE* const file = std::fopen(concat("/proc/", pid_, "/statm").c_str(), "re");
    if (!file) return;
    unsigned long long size = 0;
    unsigned long long resident = 0;
    if (std::fscanf(file, "%llu %llu", &size, &resident) == 2) {
      totals.resident_bytes = resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
    }
    std::fclose(file);
  }

 private:
  int pid_ = 0;
  clockid_t clock_ = 0;
};

/// Gives out memory of regions that the server has mapped.
class SharedBlocks {
 public:
  SharedBlocks(Client& client, SharedKind kind, int gpu)
      : client_(client), kind_(kind), gpu_(gpu) {}
  ~SharedBlocks() {
    for (const std::string& name : names_) {
      (void)(kind_ == SharedKind::cuda ? client_.unregister_cuda_memory(name)
                                       : client_.unregister_memory(name));
    }
  }
  SharedBlocks(const SharedBlocks&) = delete;
  SharedBlocks& operator=(const SharedBlocks&) = delete;

  /// Valid while this lives.
  Result<TensorView> take(DataType type, const Shape& shape) {
    MILLRACE_ASSIGN(const std::size_t bytes, byte_count(type, shape));
    if (bytes > left_) MILLRACE_TRY(add(std::max(bytes, kRegionBytes)));
    const TensorView view = TensorView::of(
        type, at_, shape, kind_ == SharedKind::cuda ? DeviceId::cuda(gpu_) : DeviceId());
    const std::size_t taken = std::min(left_, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    at_ += taken;
    left_ -= taken;
    return view;
  }
  /// To or from memory of `take`; waits.
  Result<void> copy(void* target, const void* source, std::size_t bytes) {
    if (kind_ == SharedKind::system) {
      std::memcpy(target, source, bytes);
      return {};
    }
    MILLRACE_TRY(stream_.ref().copy(target, source, bytes));
    return stream_.ref().synchronize();
  }

 private:
  Result<void> add(std::size_t bytes) {
    const std::string name = concat("millrace-bench-", getpid(), "-", names_.size());
    if (kind_ == SharedKind::system) {
      MILLRACE_ASSIGN(SharedMemory memory, SharedMemory::create(bytes));
      MILLRACE_TRY(client_.register_memory(name, memory));
      at_ = memory.data();
      system_.push_back(std::move(memory));
    } else {
      if (devices_.devices().empty()) MILLRACE_TRY(open_device());
      MILLRACE_ASSIGN(CudaMemory memory, CudaMemory::create(gpu_, bytes));
      MILLRACE_TRY(client_.register_cuda_memory(name, memory.view(), memory.handle(), gpu_));
      at_ = static_cast<std::byte*>(memory.view().data);
      cuda_.push_back(std::move(memory));
    }
    names_.push_back(name);
    left_ = bytes;
    return {};
  }
  Result<void> open_device() {
    DeviceSetOptions options;
    options.devices = {to_string(DeviceId::cuda(gpu_))};
    MILLRACE_ASSIGN(devices_, DeviceSet::open(options));
    MILLRACE_ASSIGN(stream_, devices_.devices()[0]->new_stream({}));
    return {};
  }

  Client& client_;
  const SharedKind kind_;
  const int gpu_;
  DeviceSet devices_;
  Stream stream_;
  std::vector<SharedMemory> system_;
  std::vector<CudaMemory> cuda_;
  std::vector<std::string> names_;
  std::byte* at_ = nullptr;
  std::size_t left_ = 0;
};

class ServerTarget final : public LoadTarget {
 public:
  ServerTarget(std::unique_ptr<Client> client, ServerTargetOptions options, ModelInfo info,
               Process process, bool statistics)
      : client_(std::move(client)),
        options_(std::move(options)),
        info_(std::move(info)),
        process_(process),
        statistics_(statistics),
        blocks_(*client_, options_.shared, options_.gpu) {}

  const ModelInfo& info() const override { return info_; }
  Result<Response> infer(Request request) override {
    return client_->infer(options_.model, std::move(request));
  }
  Result<void> submit(Request request, Callback callback) override {
    return client_->infer(options_.model, std::move(request), std::move(callback));
  }

  Result<void> place(std::vector<NamedTensor>& inputs, std::size_t) override {
    if (options_.shared == SharedKind::none) return {};
    for (NamedTensor& input : inputs) {
      if (input.view.type == DataType::bytes) {
        return Error{ErrorCode::unsupported, concat("input ", quote(input.name),
                                                    " is of BYTES: send it without "
                                                    "--shared-memory")};
      }
      MILLRACE_ASSIGN(const std::size_t bytes, input.view.bytes());
      MILLRACE_ASSIGN(const TensorView placed, blocks_.take(input.view.type, input.view.shape));
      MILLRACE_TRY(blocks_.copy(placed.data, input.view.data, bytes));
      input.view = placed;
      input.lease.reset();
    }
    return {};
  }

  Result<std::vector<RequestedOutput>> place_outputs(const std::vector<NamedTensor>&,
                                                     std::int64_t items) override {
    std::vector<RequestedOutput> outputs;
    if (options_.shared == SharedKind::none) return outputs;
    for (const TensorInfo& output : info_.outputs) {
      Shape shape = output.shape;
      if (output.batch_axis >= 0) shape[static_cast<std::size_t>(output.batch_axis)] = items;
      Result<TensorView> target = blocks_.take(output.type, shape);
      if (!target.ok()) {
        return Error{ErrorCode::unsupported,
                     concat("output ", quote(output.name), " of ", output.type, " ", output.shape,
                            " cannot go to shared memory: ", target.error().message)};
      }
      outputs.push_back({output.name, OutputPlacement::target, *target, {}});
    }
    return outputs;
  }

  Result<void> fetch(Response& response) override {
    for (NamedTensor& output : response.outputs) {
      if (output.view.device.is_host_memory()) continue;
      MILLRACE_ASSIGN(const std::size_t bytes, output.view.bytes());
      MILLRACE_ASSIGN(const Tensor copy, Tensor::allocate(output.view.type, output.view.shape));
      MILLRACE_TRY(blocks_.copy(copy.view().data, output.view.data, bytes));
      output.view = copy.view();
      output.lease = copy.lease();
    }
    return {};
  }

  ServerTotals server() override {
    ServerTotals totals;
    process_.look(totals);
    if (!statistics_) return totals;
    const Result<std::vector<server::VersionStatistics>> versions =
        client_->statistics(options_.model);
    if (!versions.ok()) return totals;
    for (const server::VersionStatistics& version : *versions) {
      totals.requests += version.success.count;
      totals.items += version.inference_count;
      totals.batches += version.execution_count;
      totals.success_ns += version.success.ns;
      totals.queue_ns += version.queue.ns;
      totals.compute_input_ns += version.compute_input.ns;
      totals.compute_infer_ns += version.compute_infer.ns;
      totals.compute_output_ns += version.compute_output.ns;
    }
    return totals;
  }

 private:
  const std::unique_ptr<Client> client_;
  const ServerTargetOptions options_;
  const ModelInfo info_;
  const Process process_;
  const bool statistics_;
  SharedBlocks blocks_;
};

Result<void> set_shapes(ModelInfo& info, const ServerTargetOptions& options) {
  for (const auto& [name, item] : options.shapes) {
    TensorInfo* found = nullptr;
    for (TensorInfo& input : info.inputs) {
      if (input.name == name) found = &input;
    }
    if (!found) {
      return Error{ErrorCode::invalid_argument,
                   concat("--shape: model ", quote(info.name), " has no input ", quote(name))};
    }
    Shape shape = item;
    if (found->batch_axis == 0) {
      shape = {kDynamic};
      for (const std::int64_t size : item) shape.push_back(size);
    }
    if (shape.rank() != found->shape.rank()) {
      return Error{ErrorCode::invalid_argument,
                   concat("--shape: input ", quote(name), " is ", found->shape, ", not ", shape)};
    }
    found->shape = shape;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<LoadTarget>> server_target(ServerTargetOptions options) {
  MILLRACE_ASSIGN(const Process process, Process::open(options.pid));
  MILLRACE_ASSIGN(std::unique_ptr<Client> client, Client::connect(options.url, options.client));
  MILLRACE_ASSIGN(server::ModelMetadata metadata, client->model_metadata(options.model));
  ModelInfo info;
  info.name = options.model.name;
  info.path = options.url;
  info.backend = metadata.platform;
  info.inputs = std::move(metadata.inputs);
  info.outputs = std::move(metadata.outputs);
  MILLRACE_TRY(set_shapes(info, options));
  const bool statistics = client->statistics(options.model).ok();
  return std::unique_ptr<LoadTarget>(std::make_unique<ServerTarget>(
      std::move(client), std::move(options), std::move(info), process, statistics));
}

}  // namespace millrace::cli
