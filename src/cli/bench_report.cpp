// What "millrace bench" says: JSON, CSV, tables and plots of measured cells.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <span>

#include <millrace/version.h>

#include "cli/bench.h"
#include "cli/svg_plot.h"
#include "direct/machine.h"

namespace millrace::cli {
namespace {

double rounded(double value, int digits) {
  const double scale = std::pow(10, digits);
  return std::round(value * scale) / scale;
}

std::chrono::nanoseconds micros(double us) {
  return std::chrono::nanoseconds(static_cast<std::int64_t>(std::llround(us * 1000)));
}

double quantile_us(const BenchCell& cell, double q) {
  return static_cast<double>(cell.measurement.tally.latency.quantile(q)) / 1000;
}

double cpu_us_per_request(const BenchCell& cell) {
  const std::uint64_t requests = cell.measurement.all_requests;
  return requests == 0 ? 0 : cell.measurement.cpu_s * 1e6 / static_cast<double>(requests);
}

Json phases_json(const ModelStatistics& statistics) {
  Json phases = Json::object();
  for (std::size_t i = 0; i < kPhases; ++i)
    phases[std::string(to_string(static_cast<Phase>(i)))] = latency_json(statistics.phases[i]);
  return phases;
}

Json samples_json(const BenchCell& cell) {
  Json samples = Json::array();
  for (const WindowSample& sample : cell.measurement.samples) {
    samples.push_back({{"seconds", rounded(sample.seconds, 4)},
                       {"items_per_s", rounded(sample.items_per_s, 1)},
                       {"requests_per_s", rounded(sample.requests_per_s, 1)},
                       {"p50_us", sample.p50_us},
                       {"p99_us", sample.p99_us},
                       {"cpu_s", rounded(sample.cpu_s, 4)},
                       {"errors", sample.errors},
                       {"counted", sample.counted}});
    if (!cell.server) continue;
    samples.back()["refused"] = sample.refused;
    samples.back()["server_cpu_s"] = rounded(sample.server_cpu_s, 6);
    samples.back()["server_rss_mib"] =
        rounded(static_cast<double>(sample.server_resident_bytes) / 1048576, 3);
  }
  return samples;
}

std::string devices_text(const BenchCell& cell) {
  std::string text;
  for (const ModelInfo::Placement& placement : cell.info.placements)
    text += (text.empty() ? "" : " ") + to_string(placement.device);
  return text;
}

Json versions_json() {
  Json versions = Json::object();
  for (const ComponentVersion& component : component_versions())
    versions[component.component] = component.version;
  return versions;
}

// -------------------------------------------------------------------------------------------------
// for people

std::string title(std::string_view text) { return inked(Ink::bold, text) + "\n"; }

std::string latency_line(const BenchCell& cell) {
  const Histogram& latency = cell.measurement.tally.latency;
  const auto time = [](double ns) {
    return format_time(std::chrono::nanoseconds(std::llround(ns)));
  };
  std::string line = "mean " + time(latency.mean());
  for (const auto& [name, q] :
       {std::pair{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}}) {
    line += std::string("   ") + name + " " + time(static_cast<double>(latency.quantile(q)));
  }
  return line + "   max " + time(static_cast<double>(latency.max()));
}

std::string rule_text(const Measurement& measurement) {
  const std::string length = format_fixed(measurement.seconds, 2) + " s";
  if (measurement.interrupted) return length + ", interrupted";
  return measurement.stable ? length + ", stable" : length + ", the whole time after the warm-up";
}

std::string phases_text(const ModelStatistics& statistics) {
  Table table({"phase", "mean", "p50", "p99", "max"}, {1, 2, 3, 4});
  for (std::size_t i = 0; i < kPhases; ++i) {
    const Histogram& times = statistics.phases[i];
    if (times.count() == 0) continue;
    const auto time = [](double ns) {
      return format_time(std::chrono::nanoseconds(std::llround(ns)));
    };
    table.add({std::string(to_string(static_cast<Phase>(i))), time(times.mean()),
               time(static_cast<double>(times.quantile(0.5))),
               time(static_cast<double>(times.quantile(0.99))),
               time(static_cast<double>(times.max()))});
  }
  return table.text();
}

std::string comparisons_text(const BenchCell& cell) {
  Table table(
      {"compared with", "its items/s", "ratio", "95% interval", "its p50", "p50 above it", "how"},
      {1, 2, 4, 5});
  for (const Comparison& comparison : cell.comparisons) {
    const Spread ratio = comparison.ratio();
    table.add({comparison.name, format_rate(comparison.peer_items_per_s()),
               inked(Ink::bold, format_fixed(ratio.median, 3)),
               format_fixed(ratio.low, 3) + " to " + format_fixed(ratio.high, 3),
               format_time(micros(comparison.peer_p50_us())),
               format_time(micros(comparison.p50_excess_us().median)),
               inked(Ink::dim, comparison.what)});
  }
  return table.text();
}

std::string windows_text(const Measurement& measurement) {
  Table table({"window", "items/s", "requests/s", "p50", "p99", "errors", ""}, {0, 1, 2, 3, 4, 5});
  std::size_t number = 0;
  for (const WindowSample& sample : measurement.samples) {
    table.add({std::to_string(++number), format_rate(sample.items_per_s),
               format_rate(sample.requests_per_s), format_time(micros(sample.p50_us)),
               format_time(micros(sample.p99_us)), format_count(sample.errors),
               sample.counted ? "counted" : ""});
  }
  return table.text();
}

double per_second(std::uint64_t count, const Measurement& measurement) {
  return measurement.seconds > 0 ? static_cast<double>(count) / measurement.seconds : 0;
}

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

double seconds_of(Duration time) { return std::chrono::duration<double>(time).count(); }

double items_of(const Measurement& measurement) {
  double sum = 0;
  for (const DeviceStatistics& device : measurement.statistics.devices)
    sum += static_cast<double>(device.items);
  return sum;
}

// Device time of all cells on a device.
double device_seconds(std::span<const BenchCell> cells, DeviceId id) {
  double sum = 0;
  for (const BenchCell& cell : cells) {
    for (const DeviceStatistics& device : cell.measurement.statistics.devices) {
      if (device.device == id) sum += seconds_of(device.device_time);
    }
  }
  return sum;
}

// What each device did for the models measured together.
std::string devices_table(std::span<const BenchCell> cells) {
  Table table({"device", "model", "items/s", "of the model", "of the device", "p50", "p99",
               "batch items", "moved"},
              {2, 3, 4, 5, 6, 7, 8});
  for (const BenchCell& cell : cells) {
    const Measurement& measurement = cell.measurement;
    for (const DeviceStatistics& device : measurement.statistics.devices) {
      const auto time = [&](double q) {
        return format_time(std::chrono::nanoseconds(device.total.quantile(q)));
      };
      table.add(
          {to_string(device.device), cell.info.name,
           format_rate(per_second(device.items, measurement)),
           format_percent(share(static_cast<double>(device.items), items_of(measurement))),
           format_percent(
               share(seconds_of(device.device_time), device_seconds(cells, device.device))),
           time(0.5), time(0.99),
           format_fixed(
               share(static_cast<double>(device.items), static_cast<double>(device.batches)), 1),
           format_count(device.moved_requests)});
    }
  }
  return table.text();
}

Json devices_json(const BenchCell& cell, std::span<const BenchCell> together) {
  const Measurement& measurement = cell.measurement;
  Json devices = Json::array();
  for (const DeviceStatistics& device : measurement.statistics.devices) {
    devices.push_back(
        {{"device", to_string(device.device)},
         {"items_per_s", rounded(per_second(device.items, measurement), 1)},
         {"requests_per_s", rounded(per_second(device.requests, measurement), 1)},
         {"batches", device.batches},
         {"moved_requests", device.moved_requests},
         {"share_of_model",
          rounded(share(static_cast<double>(device.items), items_of(measurement)), 4)},
         {"share_of_device",
          rounded(share(seconds_of(device.device_time), device_seconds(together, device.device)),
                  4)},
         {"latency_us", latency_json(device.total)}});
  }
  return devices;
}

double server_cpu_us(const Measurement& measurement) {
  const std::uint64_t requests = measurement.tally.requests;
  return requests == 0 ? 0 : measurement.server.cpu_s * 1e6 / static_cast<double>(requests);
}

double mean_us(std::uint64_t ns, std::uint64_t count) {
  return count == 0 ? 0 : static_cast<double>(ns) / 1000 / static_cast<double>(count);
}

const char* shared_text(SharedKind kind) {
  constexpr const char* kNames[] = {"none", "system", "cuda"};
  return kNames[static_cast<std::size_t>(kind)];
}

// What the server says of the interval, where it does.
std::string server_phases_text(const ServerTotals& server) {
  Table table({"of the server", "mean"}, {1});
  for (const auto& [name, ns] : {std::pair{"queue", server.queue_ns},
                                 {"compute input", server.compute_input_ns},
                                 {"compute infer", server.compute_infer_ns},
                                 {"compute output", server.compute_output_ns},
                                 {"all", server.success_ns}}) {
    table.add({name, format_time(micros(mean_us(ns, server.requests)))});
  }
  return table.text();
}

Json server_json(const BenchCell& cell) {
  const Measurement& measurement = cell.measurement;
  const ServerTotals& server = measurement.server;
  Json json = {{"url", cell.server->url},
               {"shared_memory", shared_text(cell.server->shared)},
               {"refused", measurement.refused}};
  if (cell.server->process_known) {
    json["cpu_s"] = rounded(server.cpu_s, 6);
    json["cpu_us_per_request"] = rounded(server_cpu_us(measurement), 3);
    json["requests_per_cpu_s"] = rounded(
        server.cpu_s > 0 ? static_cast<double>(measurement.tally.requests) / server.cpu_s : 0, 1);
    json["rss_mib"] = rounded(static_cast<double>(server.resident_bytes) / 1048576, 3);
  }
  if (server.requests > 0) {
    json["requests"] = server.requests;
    json["batches"] = server.batches;
    json["mean_us"] = {{"queue", mean_us(server.queue_ns, server.requests)},
                       {"compute_input", mean_us(server.compute_input_ns, server.requests)},
                       {"compute_infer", mean_us(server.compute_infer_ns, server.requests)},
                       {"compute_output", mean_us(server.compute_output_ns, server.requests)},
                       {"total", mean_us(server.success_ns, server.requests)}};
  }
  return json;
}

void add_server_rows(std::string& out, const BenchCell& cell) {
  const Measurement& measurement = cell.measurement;
  const auto row = [&out](std::string_view name, const std::string& value) {
    out += "  " + padded(name, 12) + value + "\n";
  };
  row("requests", format_count(static_cast<std::uint64_t>(cell.load.request_items)) +
                      " items each, shared memory: " + shared_text(cell.server->shared));
  if (cell.server->process_known) {
    row("server", format_fixed(server_cpu_us(measurement), 1) + " us of CPU a request, " +
                      format_bytes(measurement.server.resident_bytes) + " resident");
  }
  if (measurement.refused > 0) row("refused", format_count(measurement.refused) + " requests");
}

std::string cell_text(const BenchCell& cell, const MachineFigures& machine, bool windows) {
  const Measurement& measurement = cell.measurement;
  const ModelInfo& info = cell.info;
  const std::string where = cell.server ? " at " + cell.server->url
                                        : " with " + info.backend + " on " + devices_text(cell);
  std::string out = title(info.name + where + ", " + cell.scenario);
  const auto row = [&out](std::string_view name, const std::string& value) {
    out += "  " + padded(name, 12) + value + "\n";
  };
  row("throughput", inked(Ink::bold, format_rate(measurement.items_per_s()) + " items/s") + "   " +
                        format_rate(measurement.requests_per_s()) + " requests/s");
  row("latency", latency_line(cell));
  if (cell.server) {
    add_server_rows(out, cell);
  } else {
    row("lanes", std::to_string(cell.lanes()) + " a device, batches of up to " +
                     std::to_string(info.max_items) + " items, " +
                     format_fixed(measurement.statistics.batch_items.mean(), 1) + " on average");
  }
  row("CPU",
      format_fixed(cpu_us_per_request(cell), 1) + " us a request, " +
          format_fixed(measurement.seconds > 0 ? measurement.cpu_s / measurement.seconds : 0, 2) +
          " of " + std::to_string(machine.cores) + " cores");
  if (const std::string eager = eager_text(cell); !eager.empty()) row("graphs", eager);
  row("memory", format_bytes(measurement.resident_bytes));
  row("machine", "wake-up " + format_time(micros(machine.wake_us)) + " (p50), idle timer late by " +
                     format_time(micros(machine.timer_lag_us)) + " (p99)");
  if (measurement.tally.lateness.count() > 0) {
    row("sender",
        "late by " +
            format_time(std::chrono::nanoseconds(measurement.tally.lateness.quantile(0.99))) +
            " (p99), counted in the latency");
  }
  row("answers", format_count(measurement.tally.checked) + " of " +
                     format_count(measurement.tally.requests) + " compared with the reference, " +
                     (measurement.errors == 0
                          ? "no errors"
                          : inked(Ink::red, format_count(measurement.errors) + " errors")));
  row("measured", rule_text(measurement));
  if (!cell.server || measurement.server.requests > 0) {
    out += "\n" + title("Where the time of a request goes") +
           (cell.server ? server_phases_text(measurement.server)
                        : phases_text(measurement.statistics));
  }
  if (measurement.statistics.devices.size() > 1)
    out += "\n" + title("What each device did") + devices_table({&cell, 1});
  if (!cell.comparisons.empty())
    out += "\n" + title("Compared in turn, in windows of the same length") + comparisons_text(cell);
  if (windows) out += "\n" + title("Windows") + windows_text(measurement);
  return out;
}

std::string sweep_text(const std::vector<BenchCell>& cells) {
  Table table({"lanes", "batch", "items/s", "requests/s", "p50", "p90", "p99", "p99.9",
               "batch items", "CPU/request", "errors"},
              {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
  for (const BenchCell& cell : cells) {
    const auto time = [&](double q) { return format_time(micros(quantile_us(cell, q))); };
    table.add({std::to_string(cell.lanes()), std::to_string(cell.info.max_items),
               format_rate(cell.measurement.items_per_s()),
               format_rate(cell.measurement.requests_per_s()), time(0.5), time(0.9), time(0.99),
               time(0.999), format_fixed(cell.measurement.statistics.batch_items.mean(), 1),
               format_time(micros(cpu_us_per_request(cell))),
               format_count(cell.measurement.errors)});
  }
  const BenchCell& first = cells.front();
  const std::string where = first.server
                                ? " at " + first.server->url
                                : " with " + first.info.backend + " on " + devices_text(first);
  std::string out = title(first.info.name + where + ", " + first.scenario) + table.text();
  for (const BenchCell& cell : cells) {
    if (cell.comparisons.empty()) continue;
    out += "\n" +
           title("Compared, lanes " + std::to_string(cell.lanes()) + ", batch " +
                 std::to_string(cell.info.max_items)) +
           comparisons_text(cell);
  }
  return out;
}

}  // namespace

MachineFigures measure_machine(Duration time) {
  const double seconds = std::chrono::duration<double>(time).count();
  MachineFigures figures;
  figures.cores = direct::usable_cores();
  figures.wake_us = direct::measure_wake(seconds).p50_us;
  figures.timer_lag_us = direct::measure_timer_lag(seconds).p99_us;
  return figures;
}

namespace {

// The first of the devices' reasons, which are mostly the same.
std::string not_graphs_text(const BenchCell& cell) {
  for (const ModelInfo::Placement& placement : cell.info.placements) {
    if (!placement.not_graphs.empty()) return printable(placement.not_graphs);
  }
  return {};
}

Json graphs_json(const BenchCell& cell) {
  Json eager = Json::object();
  for (std::size_t i = 0; i < kEagerReasons; ++i) {
    eager[std::string(to_string(static_cast<EagerReason>(i)))] =
        cell.measurement.statistics.eager_batches[i];
  }
  return {{"asked_for", cell.graphs_asked},
          {"eager_batches", eager},
          {"eager_share", rounded(cell.eager_share(), 5)},
          {"why_not", not_graphs_text(cell)}};
}

const char* place_text(Place place) {
  constexpr const char* kNames[] = {"automatic", "pageable", "pinned", "device", "managed"};
  return kNames[static_cast<std::size_t>(place)];
}

Json one_json(const BenchCell& cell, std::span<const BenchCell> together,
              const MachineFigures& machine) {
  const Measurement& measurement = cell.measurement;
  Json devices = Json::array();
  for (const ModelInfo::Placement& placement : cell.info.placements)
    devices.push_back(to_string(placement.device));
  Json json = {
      {"model", cell.model},
      {"backend", cell.info.backend},
      {"devices", devices},
      {"per_device", devices_json(cell, together)},
      {"lanes", cell.lanes()},
      {"slots", cell.info.placements.empty() ? 0 : cell.info.placements[0].slots},
      {"batch", cell.info.max_items},
      {"scenario", cell.scenario},
      {"in_flight", cell.load.arrival == Arrival::poisson ? Json() : Json(cell.load.concurrency)},
      {"rate", cell.load.arrival == Arrival::poisson ? Json(cell.load.rate) : Json()},
      {"request_items", cell.load.request_items},
      {"batching", cell.batching},
      {"memory", place_text(cell.load.place)},
      {"delay_us", std::chrono::duration<double, std::micro>(cell.delay).count()},
      {"items_per_s", rounded(measurement.items_per_s(), 1)},
      {"requests_per_s", rounded(measurement.requests_per_s(), 1)},
      {"latency_us", latency_json(measurement.tally.latency)},
      {"phases_us", phases_json(measurement.statistics)},
      {"errors", measurement.errors},
      {"cpu_s", rounded(measurement.cpu_s, 4)},
      {"rss_mib", rounded(static_cast<double>(measurement.resident_bytes) / 1048576, 1)},
      {"cpu_us_per_request", rounded(cpu_us_per_request(cell), 3)},
      {"seconds", rounded(measurement.seconds, 4)},
      {"stable", measurement.stable},
      {"interrupted", measurement.interrupted},
      {"requests", measurement.tally.requests},
      {"checked", measurement.tally.checked},
      {"batches", measurement.statistics.batches},
      {"prepared_batches", measurement.statistics.prepared_batches},
      {"in_place_batches", measurement.statistics.bound_in_place},
      {"graphs", graphs_json(cell)},
      {"batch_items_mean", rounded(measurement.statistics.batch_items.mean(), 2)},
      {"comparison", Json::array()},
      {"wake_us", rounded(machine.wake_us, 3)},
      {"timer_lag_us", rounded(machine.timer_lag_us, 3)},
      {"machine", {{"cores", machine.cores}, {"versions", versions_json()}}},
      {"samples", samples_json(cell)}};
  for (const Comparison& comparison : cell.comparisons)
    json["comparison"].push_back(comparison_json(comparison));
  if (measurement.tally.lateness.count() > 0)
    json["sender_lateness_us"] = latency_json(measurement.tally.lateness);
  if (cell.server) json["server"] = server_json(cell);
  if (!cell.first_error.empty()) json["first_error"] = cell.first_error;
  return json;
}

}  // namespace

double BenchCell::eager_share() const {
  const ModelStatistics& statistics = measurement.statistics;
  if (statistics.batches == 0) return 0;
  return static_cast<double>(statistics.eager()) / static_cast<double>(statistics.batches);
}

std::string eager_text(const BenchCell& cell) {
  const ModelStatistics& statistics = cell.measurement.statistics;
  if (statistics.eager() == 0) return {};
  std::string reasons;
  for (std::size_t i = 0; i < kEagerReasons; ++i) {
    if (statistics.eager_batches[i] == 0) continue;
    if (!reasons.empty()) reasons += ", ";
    reasons += format_count(statistics.eager_batches[i]) + " " +
               std::string(to_string(static_cast<EagerReason>(i)));
  }
  const std::string why = not_graphs_text(cell);
  return format_count(statistics.eager()) + " of " + format_count(statistics.batches) +
         " batches ran without one (" + format_fixed(100 * cell.eager_share(), 1) +
         "%): " + reasons + (why.empty() ? "" : " (" + why + ")");
}

Json cell_json(const BenchCell& cell, const MachineFigures& machine) {
  return one_json(cell, {&cell, 1}, machine);
}

Json together_json(const std::vector<BenchCell>& cells, const MachineFigures& machine) {
  const Measurement& first = cells.front().measurement;
  Json models = Json::array();
  double items = 0;
  std::uint64_t errors = 0;
  for (const BenchCell& cell : cells) {
    models.push_back(one_json(cell, cells, machine));
    items += cell.measurement.items_per_s();
    errors += cell.measurement.errors;
  }
  return {{"scenario", cells.front().scenario},
          {"models", models},
          {"items_per_s", rounded(items, 1)},
          {"requests_per_s", rounded(per_second(first.all_requests, first), 1)},
          {"errors", errors},
          {"cpu_s", rounded(first.cpu_s, 4)},
          {"seconds", rounded(first.seconds, 4)},
          {"stable", first.stable},
          {"interrupted", first.interrupted}};
}

std::string together_text(const std::vector<BenchCell>& cells, const MachineFigures& machine,
                          bool windows) {
  Table table({"model", "backend", "devices", "items/s", "requests/s", "p50", "p99", "batch items",
               "errors"},
              {3, 4, 5, 6, 7, 8});
  for (const BenchCell& cell : cells) {
    table.add({cell.info.name, cell.info.backend, devices_text(cell),
               format_rate(cell.measurement.items_per_s()),
               format_rate(cell.measurement.requests_per_s()),
               format_time(micros(quantile_us(cell, 0.5))),
               format_time(micros(quantile_us(cell, 0.99))),
               format_fixed(cell.measurement.statistics.batch_items.mean(), 1),
               format_count(cell.measurement.errors)});
  }
  const Measurement& first = cells.front().measurement;
  std::string out =
      title(std::to_string(cells.size()) + " models at once, each with " + cells.front().scenario) +
      table.text() + "\n" + title("What each device did") + devices_table(cells) + "\n";
  out += "  CPU " + format_fixed(cpu_us_per_request(cells.front()), 1) + " us a request, " +
         format_fixed(share(first.cpu_s, first.seconds), 2) + " of " +
         std::to_string(machine.cores) + " cores; measured " + rule_text(first) + "\n";
  for (const BenchCell& cell : cells) {
    if (windows)
      out += "\n" + title("Windows of " + cell.info.name) + windows_text(cell.measurement);
  }
  return out;
}

std::string cells_csv(const std::vector<BenchCell>& cells) {
  std::string out =
      "model,backend,devices,lanes,batch,scenario,items_per_s,requests_per_s,mean_us,p50_us,p90_us,"
      "p99_us,p99_9_us,max_us,errors,cpu_s,rss_mib\n";
  const auto quoted = [](const std::string& text) {
    std::string field = "\"";
    for (const char c : text) field.append(c == '"' ? 2 : 1, c);
    return field + "\"";
  };
  for (const BenchCell& cell : cells) {
    const Measurement& measurement = cell.measurement;
    out += quoted(cell.model) + "," + cell.info.backend + "," + quoted(devices_text(cell)) + "," +
           std::to_string(cell.lanes()) + "," + std::to_string(cell.info.max_items) + "," +
           quoted(cell.scenario);
    for (const double value :
         {measurement.items_per_s(), measurement.requests_per_s(),
          measurement.tally.latency.mean() / 1000, quantile_us(cell, 0.5), quantile_us(cell, 0.9),
          quantile_us(cell, 0.99), quantile_us(cell, 0.999),
          static_cast<double>(measurement.tally.latency.max()) / 1000}) {
      out += "," + format_fixed(value, 1);
    }
    out += "," + std::to_string(measurement.errors) + "," + format_fixed(measurement.cpu_s, 3) +
           "," + format_fixed(static_cast<double>(measurement.resident_bytes) / 1048576, 1) + "\n";
  }
  return out;
}

std::string cells_text(const std::vector<BenchCell>& cells, const MachineFigures& machine,
                       bool windows) {
  if (cells.size() == 1) return cell_text(cells.front(), machine, windows);
  std::string out = sweep_text(cells);
  for (const BenchCell& cell : cells) {
    if (!windows) break;
    out += "\n" +
           title("Windows, lanes " + std::to_string(cell.lanes()) + ", batch " +
                 std::to_string(cell.info.max_items)) +
           windows_text(cell.measurement);
  }
  return out;
}

std::string cells_plot(const std::vector<BenchCell>& cells) {
  std::set<std::int64_t> batches;
  std::set<int> lanes;
  for (const BenchCell& cell : cells) {
    batches.insert(cell.info.max_items);
    lanes.insert(cell.lanes());
  }
  PlotPanel throughput{"Throughput", "batch (items)", "items/s", PlotPanel::Form::bars, {}, {}};
  PlotPanel latency{"Latency, p99",
                    "batch (items)",
                    "ms",
                    batches.size() > 1 ? PlotPanel::Form::lines : PlotPanel::Form::bars,
                    {},
                    {}};
  for (const std::int64_t batch : batches) {
    throughput.places.push_back(std::to_string(batch));
    latency.places.push_back(std::to_string(batch));
  }
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  for (const int lane_count : lanes) {
    const std::string label = std::to_string(lane_count) + (lane_count == 1 ? " lane" : " lanes");
    PlotSeries rates{label, std::vector<double>(batches.size(), kNone)};
    PlotSeries times{label, std::vector<double>(batches.size(), kNone)};
    for (const BenchCell& cell : cells) {
      if (cell.lanes() != lane_count) continue;
      const auto place = static_cast<std::size_t>(
          std::distance(batches.begin(), batches.find(cell.info.max_items)));
      rates.values[place] = cell.measurement.items_per_s();
      times.values[place] = quantile_us(cell, 0.99) / 1000;
    }
    throughput.series.push_back(std::move(rates));
    latency.series.push_back(std::move(times));
  }
  const BenchCell& first = cells.front();
  return svg_plot(first.info.name + ", " + first.scenario + ", " + first.info.backend + " on " +
                      devices_text(first),
                  {throughput, latency});
}

}  // namespace millrace::cli
