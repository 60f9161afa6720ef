#include "cli/load_target.h"

#include <algorithm>
#include <cstring>

namespace millrace::cli {
namespace {

Result<void> copy_and_wait(DeviceRef device, void* target, const void* source, std::size_t bytes) {
  Result<Stream> stream = device->new_stream({});
  if (!stream.ok()) return std::move(stream).error();
  Result<void> copied = stream->ref().copy(target, source, bytes);
  return copied.ok() ? stream->ref().synchronize() : copied;
}

Result<Tensor> managed_tensor(DeviceRef device, const TensorView& like, std::size_t bytes) {
  Result<Buffer> buffer = device->allocate(std::max<std::size_t>(bytes, 1), MemoryKind::managed);
  if (!buffer.ok()) return std::move(buffer).error();
  void* const data = buffer->data();
  return Tensor(TensorView::of(like.type, data, like.shape),
                Lease::share(std::make_shared<Buffer>(std::move(*buffer))));
}

DeviceRef device_of(const Engine& engine, DeviceId id) {
  for (const DeviceRef device : engine.devices()) {
    if (device->id() == id) return device;
  }
  return nullptr;
}

class EngineTarget final : public LoadTarget {
 public:
  EngineTarget(const Model& model, const Engine* engine, Place place,
               std::optional<DeviceId> data_on)
      : model_(model), engine_(engine), place_(place), data_on_(data_on) {}

  const ModelInfo& info() const override { return model_.info(); }
  Result<Response> infer(Request request) override { return model_.infer(std::move(request)); }
  Result<void> submit(Request request, Callback callback) override {
    Result<Ticket> ticket = model_.submit(std::move(request), std::move(callback));
    if (!ticket.ok()) return std::move(ticket).error();
    return {};
  }
  ModelStatistics statistics() const override { return model_.statistics(); }

  Result<void> place(std::vector<NamedTensor>& inputs, std::size_t number) override {
    const auto& placements = info().placements;
    if (!engine_ || placements.empty()) return {};
    const bool gpu = placements[0].device.kind == DeviceKind::cuda;
    const Place place =
        place_ == Place::automatic ? (gpu ? Place::pinned : Place::pageable) : place_;
    if (place == Place::pageable) return {};
    const DeviceId runs_on = placements[number % placements.size()].device;
    DeviceId target;
    if (place == Place::device) target = data_on_.value_or(runs_on);
    for (NamedTensor& input : inputs) {
      if (input.view.type == DataType::bytes) continue;
      const Result<std::size_t> bytes = input.view.bytes();
      if (!bytes.ok()) return bytes.error();
      Result<Tensor> placed = place == Place::managed
                                  ? managed_tensor(device_of(*engine_, runs_on), input.view, *bytes)
                                  : engine_->new_tensor(input.view.type, input.view.shape, target);
      if (!placed.ok()) return std::move(placed).error();
      if (place != Place::device) {
        std::memcpy(placed->view().data, input.view.data, *bytes);
      } else {
        Result<void> copied = copy_and_wait(device_of(*engine_, target), placed->view().data,
                                            input.view.data, *bytes);
        if (!copied.ok()) return copied;
      }
      input.view = placed->view();
      input.lease = placed->lease();
    }
    return {};
  }

  // Outputs of a request whose inputs lie on a device stay there: in memory of the request's own
  // where their size is known.
  Result<std::vector<RequestedOutput>> place_outputs(const std::vector<NamedTensor>& inputs,
                                                     std::int64_t items) override {
    std::vector<RequestedOutput> outputs;
    if (!engine_ || place_ != Place::device) return outputs;
    for (const TensorInfo& output : info().outputs) {
      RequestedOutput wanted{output.name, OutputPlacement::device, {}, {}};
      Shape shape = output.shape;
      if (output.batch_axis >= 0) shape[static_cast<std::size_t>(output.batch_axis)] = items;
      if (!data_on_ && byte_count(output.type, shape).ok()) {
        Result<Tensor> target = engine_->new_tensor(output.type, shape, inputs[0].view.device);
        if (!target.ok()) return std::move(target).error();
        wanted = {output.name, OutputPlacement::target, target->view(), target->lease()};
      }
      outputs.push_back(std::move(wanted));
    }
    return outputs;
  }

  Result<void> fetch(Response& response) override {
    for (NamedTensor& output : response.outputs) {
      if (output.view.device.is_host_memory()) continue;
      const Result<std::size_t> bytes = output.view.bytes();
      if (!bytes.ok()) return bytes.error();
      Result<Tensor> copy = engine_->new_tensor(output.view.type, output.view.shape);
      if (!copy.ok()) return std::move(copy).error();
      Result<void> copied = copy_and_wait(device_of(*engine_, output.view.device),
                                          copy->view().data, output.view.data, *bytes);
      if (!copied.ok()) return copied;
      output.view = copy->view();
      output.lease = copy->lease();
    }
    return {};
  }

 private:
  const Model model_;
  const Engine* const engine_;
  const Place place_;
  const std::optional<DeviceId> data_on_;
};

constexpr std::uint64_t ServerTotals::*kCounts[] = {
    &ServerTotals::requests,         &ServerTotals::items,
    &ServerTotals::batches,          &ServerTotals::success_ns,
    &ServerTotals::queue_ns,         &ServerTotals::compute_input_ns,
    &ServerTotals::compute_infer_ns, &ServerTotals::compute_output_ns};

}  // namespace

void ServerTotals::add(const ServerTotals& more) noexcept {
  cpu_s += more.cpu_s;
  resident_bytes = std::max(resident_bytes, more.resident_bytes);
  for (const auto count : kCounts) this->*count += more.*count;
}

ServerTotals ServerTotals::since(const ServerTotals& earlier) const noexcept {
  ServerTotals passed = *this;
  passed.cpu_s -= earlier.cpu_s;
  // A server that began anew counts from zero.
  for (const auto count : kCounts) passed.*count -= std::min(this->*count, earlier.*count);
  return passed;
}

std::unique_ptr<LoadTarget> engine_target(const Model& model, const Engine* engine, Place place,
                                          std::optional<DeviceId> data_on) {
  return std::make_unique<EngineTarget>(model, engine, place, data_on);
}

}  // namespace millrace::cli
