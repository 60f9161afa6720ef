// The demonstration's report, for people and as JSON.
#include <algorithm>
#include <cmath>

#include <millrace/version.h>

#include "cli/demo_outcome.h"

namespace millrace::cli {
namespace {

constexpr std::size_t kSamples = 6;

// Three typical images (the first ones of three classes), those of which the model was least sure
// though right, and last one that it got wrong, where there is one.
std::vector<std::int64_t> pick_samples(const Outcome& outcome) {
  constexpr std::size_t kTypical = 3;
  std::vector<std::int64_t> right;
  std::vector<std::int64_t> wrong;
  for (std::int64_t i = 0; i < outcome.data.count(); ++i)
    (outcome.right(i) ? right : wrong).push_back(i);
  std::vector<std::int64_t> picked;
  std::set<std::int64_t> classes;
  for (const std::int64_t i : right) {
    if (picked.size() < kTypical &&
        classes.insert(outcome.data.labels[static_cast<std::size_t>(i)]).second)
      picked.push_back(i);
  }
  const auto sureness = [&](std::int64_t i) {
    return outcome.answers[static_cast<std::size_t>(i)].guesses[0].score;
  };
  std::stable_sort(right.begin(), right.end(),
                   [&](std::int64_t a, std::int64_t b) { return sureness(a) < sureness(b); });
  const std::size_t unsure = kSamples - std::min<std::size_t>(wrong.size(), 1);
  for (const std::int64_t i : right) {
    const bool there = std::find(picked.begin(), picked.end(), i) != picked.end();
    if (picked.size() < unsure && !there) picked.push_back(i);
  }
  for (const std::int64_t i : wrong) {
    if (picked.size() < kSamples) picked.push_back(i);
  }
  return picked;
}

// Two columns for a pixel, from nothing to full ink.
std::string pixel(double share) {
  if (colours_on(stdout) && utf8_locale()) {
    const int gray = 232 + static_cast<int>(std::lround(share * 23));  // the 24 grays of a terminal
    return "\033[48;5;" + std::to_string(gray) + "m  \033[0m";
  }
  if (utf8_locale()) {
    constexpr const char* kShades[] = {"  ", "░░", "▒▒", "▓▓", "██"};
    return kShades[std::lround(share * 4)];
  }
  constexpr std::string_view kRamp = " .:-=+*#%@";
  return std::string(2, kRamp[static_cast<std::size_t>(std::lround(share * 9))]);
}

// An image and, beside it, what it is and what the model took it for: eight lines of equal width.
std::vector<std::string> drawn(const Outcome& outcome, std::int64_t image) {
  constexpr double kBrightest = 16;
  const auto i = static_cast<std::size_t>(image);
  const auto* pixels = outcome.data.images.as<const float>() + image * 64;
  const bool right = outcome.right(image);
  std::vector<std::string> beside(8);
  beside[0] = inked(Ink::bold, "label " + label_of(outcome.names, outcome.data.labels[i])) + "  " +
              inked(right ? Ink::green : Ink::red, right ? "right" : "wrong");
  std::size_t line = 2;
  for (const Guess& guess : outcome.answers[i].guesses) {
    const bool truth = guess.label == outcome.data.labels[i];
    beside[line++] = label_of(outcome.names, guess.label) + " " +
                     inked(truth ? Ink::green : Ink::red, bar(guess.score, 10)) +
                     padded_left(format_percent(guess.score), 7);
  }
  std::vector<std::string> lines;
  for (std::size_t y = 0; y < 8; ++y) {
    std::string text;
    for (std::size_t x = 0; x < 8; ++x) {
      text += pixel(std::clamp(static_cast<double>(pixels[y * 8 + x]) / kBrightest, 0.0, 1.0));
    }
    lines.push_back(padded(text + "  " + beside[y], 38));
  }
  return lines;
}

std::string samples_text(const Outcome& outcome) {
  const std::vector<std::int64_t> picked = pick_samples(outcome);
  std::string out;
  for (std::size_t first = 0; first < picked.size(); first += 2) {
    const std::vector<std::string> left = drawn(outcome, picked[first]);
    const std::vector<std::string> right =
        first + 1 < picked.size() ? drawn(outcome, picked[first + 1]) : std::vector<std::string>(8);
    for (std::size_t y = 0; y < 8; ++y) {
      std::string line = "  " + left[y] + "  " + right[y];
      line.resize(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    out += "\n";
  }
  return out;
}

std::string backend_version(const std::string& name) {
  for (const BackendInfo& backend : backend_infos()) {
    if (backend.name == name) return backend.version;
  }
  return {};
}

std::string device_name(const Engine& engine, DeviceId id) {
  for (const DeviceRef device : engine.devices()) {
    if (device->id() == id) return device->info().name;
  }
  return {};
}

std::string speed_text(const Outcome& outcome) {
  Table table({"requests in flight", "images/s", "p50", "p90", "p99", "images in a batch"},
              {1, 2, 3, 4, 5});
  for (const Stretch* stretch : {&outcome.full, &outcome.single}) {
    const auto quantile = [&](double q) {
      return format_time(
          std::chrono::nanoseconds(static_cast<std::int64_t>(stretch->latency.quantile(q))));
    };
    table.add({std::to_string(stretch->in_flight), format_rate(stretch->rate()), quantile(0.5),
               quantile(0.9), quantile(0.99),
               format_fixed(stretch->statistics.batch_items.mean(), 1)});
  }
  return table.text();
}

std::string phases_text(const Outcome& outcome) {
  const std::map<Phase, std::string_view> told = {
      {Phase::queue, "waiting for a free lane"},
      {Phase::stage, "forming the batch, enqueueing it"},
      {Phase::copy_in, "inputs into the batch"},
      {Phase::compute, "the model itself"},
      {Phase::copy_out, "outputs out of the batch"},
      {Phase::complete, "handing the answers over"}};
  double whole = 0;
  for (const auto& [phase, text] : told) whole += outcome.full.statistics.phase(phase).mean();
  Table table({"phase", "mean", "share", "", ""}, {1, 2});
  for (const auto& [phase, text] : told) {
    const Histogram& times = outcome.full.statistics.phase(phase);
    if (times.count() == 0) continue;
    const double share = whole > 0 ? times.mean() / whole : 0;
    table.add({std::string(to_string(phase)),
               format_time(std::chrono::nanoseconds(std::llround(times.mean()))),
               format_percent(share), inked(Ink::cyan, bar(share, 16)), inked(Ink::dim, text)});
  }
  return table.text();
}

std::string where_text(const Outcome& outcome) {
  Table table({"device", "name", "backend", "lanes", "images", "batches"}, {3, 4, 5});
  const ModelInfo& info = outcome.open.model.info();
  for (const ModelInfo::Placement& placement : info.placements) {
    const std::string id = to_string(placement.device);
    const auto lanes =
        static_cast<std::size_t>(std::count_if(outcome.full.lanes.begin(), outcome.full.lanes.end(),
                                               [&](const auto& lane) { return lane.first == id; }));
    const auto count = outcome.full.by_device.find(id);
    const bool alone = info.placements.size() == 1;
    table.add({id, device_name(outcome.open.engine, placement.device),
               info.backend + " " + backend_version(info.backend),
               std::to_string(lanes) + " of " + std::to_string(placement.lanes),
               format_count(count == outcome.full.by_device.end() ? 0 : count->second),
               alone ? format_count(outcome.full.statistics.batches) : "-"});
  }
  return table.text();
}

std::string title(std::string_view text) { return inked(Ink::bold, text) + "\n"; }

Json stretch_json(const Stretch& stretch) {
  Json phases = Json::object();
  for (std::size_t i = 0; i < kPhases; ++i) {
    phases[std::string(to_string(static_cast<Phase>(i)))] =
        latency_json(stretch.statistics.phases[i]);
  }
  Json devices = Json::object();
  for (const auto& [device, images] : stretch.by_device) devices[device] = images;
  return {{"in_flight", stretch.in_flight},
          {"answers", stretch.answers},
          {"seconds", stretch.seconds},
          {"images_per_s", stretch.rate()},
          {"latency_us", latency_json(stretch.latency)},
          {"phases_us", phases},
          {"batches", stretch.statistics.batches},
          {"batch_items",
           {{"mean", stretch.statistics.batch_items.mean()},
            {"max", stretch.statistics.batch_items.max()}}},
          {"images_by_device", devices}};
}

}  // namespace

void print_outcome(const Outcome& outcome) {
  const std::string share =
      std::to_string(outcome.correct()) + " of " + std::to_string(outcome.data.count());
  std::string out = title("Millrace " + std::string(version()) +
                          ": handwritten digits that the model has not seen before");
  out += "\n  accuracy  " + inked(Ink::bold, format_fixed(outcome.accuracy(), 4)) + "  (" + share +
         " images right)\n";
  out += "  speed     " + inked(Ink::bold, format_rate(outcome.full.rate())) +
         " images/s, each image a request of its own\n";
  if (outcome.changed > 0) {
    out += "  " +
           inked(Ink::red, format_count(outcome.changed) +
                               " answers differ from the first one to the same image") +
           "\n";
  }
  out += "\n" + title("Speed and latency") + speed_text(outcome);
  out += "\n" +
         title("Where the time of a request goes (" + std::to_string(outcome.full.in_flight) +
               " in flight)") +
         phases_text(outcome);
  out += "\n" + title("What ran where (" + std::to_string(outcome.full.in_flight) + " in flight)") +
         where_text(outcome);
  out += "\n" +
         title(
             "Six of the images: typical ones, the least certain, and one it got wrong if there is "
             "any") +
         "\n" + samples_text(outcome);
  print(out);
}

void print_outcome_json(const Outcome& outcome) {
  const ModelInfo& info = outcome.open.model.info();
  Json placements = Json::array();
  for (const ModelInfo::Placement& placement : info.placements) {
    placements.push_back({{"device", to_string(placement.device)},
                          {"name", device_name(outcome.open.engine, placement.device)},
                          {"lanes", placement.lanes},
                          {"slots", placement.slots}});
  }
  Json samples = Json::array();
  for (const std::int64_t image : pick_samples(outcome)) {
    const auto i = static_cast<std::size_t>(image);
    Json guesses = Json::array();
    for (const Guess& guess : outcome.answers[i].guesses) {
      guesses.push_back(
          {{"label", label_of(outcome.names, guess.label)}, {"probability", guess.score}});
    }
    samples.push_back({{"image", image},
                       {"label", label_of(outcome.names, outcome.data.labels[i])},
                       {"guesses", guesses}});
  }
  print_json({{"model", info.name},
              {"path", info.path},
              {"backend", info.backend},
              {"backend_version", backend_version(info.backend)},
              {"labels_from", outcome.data.labels_from},
              {"images", outcome.data.count()},
              {"correct", outcome.correct()},
              {"accuracy", outcome.accuracy()},
              {"answers_that_changed", outcome.changed},
              {"ran_on", placements},
              {"runs", Json::array({stretch_json(outcome.full), stretch_json(outcome.single)})},
              {"samples", samples}});
}

}  // namespace millrace::cli
