// What a reference model is asked to be: "reference:KIND?option=value&..." and its JSON form.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/data_type.h>
#include <millrace/error.h>
#include <millrace/shape.h>

namespace millrace::reference {

enum class Kind : std::uint8_t { identity, busy, add, checksum, nonzero, fail, hang };
enum class BusyMode : std::uint8_t { sleep, compute };
enum class FailWhen : std::uint8_t { enqueue, run };

/// Every option of every kind with its default; docs/backends.md describes them one by one.
struct Options {
  Kind kind = Kind::identity;

  // What the model takes and gives.
  std::vector<DataType> types = {DataType::fp32};  // one for all inputs, or one for each
  Shape shape = {16};                              // of an item; may hold kDynamic
  int inputs = 1;
  std::int64_t max_items = 0;
  bool batched = true;     // whether there is a first dimension beside those of `shape`
  bool batch_axis = true;  // and whether it counts items
  bool no_read = false;

  // How long a batch takes, before the device's slowness.
  std::chrono::nanoseconds batch_time{};
  std::chrono::nanoseconds item_time{};
  BusyMode mode = BusyMode::sleep;
  std::chrono::nanoseconds first_run_time{};

  // What goes wrong. Calls count from 1, over all lanes of a plan, and without those of `prepare`.
  std::uint64_t at = 0;     // 0: no particular call
  std::uint64_t every = 0;  // 0: not regularly
  FailWhen when = FailWhen::run;
  ErrorCode code = ErrorCode::internal;
  Scope scope = Scope::request;
  bool sticky = false;  // the device is lost
  bool fail_load = false;
  int fail_lane = 0;  // the k-th lane made; 0: none
  bool fail_prepare = false;

  // Traits.
  bool output_sized_late = false;
  bool blocking = false;
  bool own_stream = false;
  bool wants_prepare = false;
  bool fixed_addresses = false;
  bool only_prepared = false;
  bool terminable = false;
  bool graphs = false;
  bool not_captured = false;
  bool avoids_eager = false;
  bool host_input = false;

  // What it costs to have.
  int lanes = 1;
  bool share_weights = true;
  std::size_t weights_bytes = 0;
  std::size_t lane_bytes = 0;
  std::size_t prepared_bytes = 0;
  std::chrono::nanoseconds load_time{};
  std::chrono::nanoseconds prepare_time{};

  [[nodiscard]] DataType type_of(int input) const noexcept {
    return types[types.size() == 1 ? 0 : static_cast<std::size_t>(input)];
  }
};

[[nodiscard]] std::string_view to_string(Kind kind) noexcept;

/// Whether a path names a reference model.
[[nodiscard]] bool is_reference_path(std::string_view path) noexcept;
/// Whether a file's first bytes may be those of a reference description.
[[nodiscard]] bool is_reference_content(std::string_view content) noexcept;

/// Reads "KIND?option=value&..." (after "reference:"). `more` are options from elsewhere, which
/// count more. Errors: invalid_argument, naming the options or kinds known.
[[nodiscard]] Result<Options> parse_options(std::string_view description,
                                            const std::map<std::string, std::string>& more = {});

/// Reads {"kind": "busy", "options": {"batch_us": 100}}. Errors: as `parse_options`.
[[nodiscard]] Result<Options> parse_json_options(
    std::string_view content, const std::map<std::string, std::string>& more = {});

}  // namespace millrace::reference
