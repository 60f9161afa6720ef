// What a load is put on: a model of an engine here, or of a server.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include <millrace/engine.h>
#include <millrace/model.h>

namespace millrace::cli {

/// Where the inputs lie and the outputs stay.
enum class Place : std::uint8_t {
  automatic,  // pinned where the model runs on a GPU, else pageable
  pageable,   // as the C library gives it
  pinned,     // from the engine's pool
  device,     // in the memory of a device that runs the model; the outputs stay there as well
  managed,    // at one address for host and device, to which pages move by themselves
};

/// What a server says of itself, in totals: what happened in between is a difference.
struct ServerTotals {
  double cpu_s = 0;                  // of its process; 0 where that is not known
  std::uint64_t resident_bytes = 0;  // now, not a total
  // Of the statistics extension; 0 where there is none.
  std::uint64_t requests = 0;
  std::uint64_t items = 0;
  std::uint64_t batches = 0;
  std::uint64_t success_ns = 0;
  std::uint64_t queue_ns = 0;
  std::uint64_t compute_input_ns = 0;
  std::uint64_t compute_infer_ns = 0;
  std::uint64_t compute_output_ns = 0;

  void add(const ServerTotals& more) noexcept;
  [[nodiscard]] ServerTotals since(const ServerTotals& earlier) const noexcept;
};

/// Every function but `infer` and `submit` is for one thread.
class LoadTarget {
 public:
  virtual ~LoadTarget() = default;
  [[nodiscard]] virtual const ModelInfo& info() const = 0;

  /// As the functions of Model.
  [[nodiscard]] virtual Result<Response> infer(Request request) = 0;
  virtual Result<void> submit(Request request, Callback callback) = 0;

  /// Brings inputs to where they are to lie. `number` counts the sets of inputs. Leases hold what
  /// is made.
  virtual Result<void> place(std::vector<NamedTensor>& inputs, std::size_t number) = 0;
  /// Where the outputs go of requests with these inputs, as often as there are such requests at a
  /// time; empty: all to the host.
  [[nodiscard]] virtual Result<std::vector<RequestedOutput>> place_outputs(
      const std::vector<NamedTensor>& inputs, std::int64_t items) = 0;
  /// Brings outputs that stayed on a device to the host, to be compared.
  virtual Result<void> fetch(Response& response) = 0;

  /// Totals of the model, of an engine.
  [[nodiscard]] virtual ModelStatistics statistics() const { return {}; }
  /// Totals of a server.
  [[nodiscard]] virtual ServerTotals server() { return {}; }
};

/// A model of `engine`. Place::device with `data_on`: all inputs lie there, and outputs stay where
/// they are computed; without it inputs lie on the devices of the model in turn.
[[nodiscard]] std::unique_ptr<LoadTarget> engine_target(const Model& model, const Engine* engine,
                                                        Place place,
                                                        std::optional<DeviceId> data_on);

}  // namespace millrace::cli
