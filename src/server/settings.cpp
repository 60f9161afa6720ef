#include "server/settings.h"

#include <algorithm>
#include <array>
#include <charconv>

#include <millrace/log.h>

#include "base/text.h"
#include "base/try.h"

namespace millrace::server {
namespace {

using Texts = std::vector<std::string>;

Error wrong(const Setting& setting, std::string_view expected) {
  return {ErrorCode::invalid_argument,
          concat("setting ", quote(setting.name), ": expected ", expected)};
}

const std::string* text_of(const Setting& setting) {
  if (const auto* text = std::get_if<std::string>(&setting.value)) return text;
  const auto* texts = std::get_if<Texts>(&setting.value);
  return texts && texts->size() == 1 ? &texts->front() : nullptr;
}

/// A whole number, which clients send as one or as text.
Result<std::int64_t> number_of(const Setting& setting, std::int64_t low) {
  if (const auto* number = std::get_if<std::int64_t>(&setting.value)) {
    if (*number >= low) return *number;
  } else if (const std::string* text = text_of(setting)) {
    return parse_integer(*text, concat("setting ", quote(setting.name)), low);
  }
  return wrong(setting, concat("a whole number of at least ", low));
}

constexpr std::array<std::string_view, 3> kTraceLevels = {"OFF", "TIMESTAMPS", "TENSORS"};

/// As the extension's answers have it: numbers as text, levels as a list.
Result<Setting> checked_trace_setting(const Setting& setting) {
  if (std::holds_alternative<std::monostate>(setting.value)) {
    for (const std::string_view name : {"trace_level", "trace_rate", "trace_count", "log_frequency",
                                        "trace_file", "trace_mode"}) {
      if (setting.name == name) return setting;
    }
  } else if (setting.name == "trace_level") {
    Texts levels;
    if (const auto* texts = std::get_if<Texts>(&setting.value)) levels = *texts;
    if (const auto* text = std::get_if<std::string>(&setting.value)) levels = {*text};
    const bool known = std::all_of(levels.begin(), levels.end(), [](const std::string& level) {
      return std::find(kTraceLevels.begin(), kTraceLevels.end(), level) != kTraceLevels.end();
    });
    if (levels.empty() || !known) return wrong(setting, "OFF, TIMESTAMPS or TENSORS");
    if (std::find(levels.begin(), levels.end(), "TENSORS") != levels.end()) {
      return Error{ErrorCode::unsupported,
                   "setting \"trace_level\": TENSORS is not supported; use TIMESTAMPS"};
    }
    return Setting{setting.name, levels};
  } else if (setting.name == "trace_rate") {
    MILLRACE_ASSIGN(const std::int64_t rate, number_of(setting, 1));
    return Setting{setting.name, std::to_string(rate)};
  } else if (setting.name == "trace_count") {
    MILLRACE_ASSIGN(const std::int64_t count, number_of(setting, -1));
    return Setting{setting.name, std::to_string(count)};
  } else if (setting.name == "log_frequency") {
    MILLRACE_ASSIGN(const std::int64_t frequency, number_of(setting, 0));
    return Setting{setting.name, std::to_string(frequency)};
  } else if (setting.name == "trace_mode") {
    const std::string* text = text_of(setting);
    if (!text || *text != "opentelemetry") return wrong(setting, "opentelemetry");
    return Setting{setting.name, *text};
  } else if (setting.name == "trace_file") {
    return Error{ErrorCode::invalid_argument,
                 "setting \"trace_file\" cannot be changed: traces are exported, see --otlp-url"};
  }
  return Error{ErrorCode::invalid_argument,
               concat("setting ", quote(setting.name),
                      " is not known; there are trace_level, trace_rate, trace_count, "
                      "log_frequency, trace_mode")};
}

std::int64_t stored_number(const Setting& setting) {
  std::int64_t value = 0;
  const auto& text = std::get<std::string>(setting.value);
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

TraceSettings::TraceSettings() {
  const auto set = [this](std::string name, auto value) {
    server_.by_name[name] = Setting{name, std::move(value)};
  };
  set("trace_level", Texts{"OFF"});
  set("trace_rate", std::string("1000"));
  set("trace_count", std::string("-1"));
  set("log_frequency", std::string("0"));
  set("trace_file", std::string());
  set("trace_mode", std::string("opentelemetry"));
}

Settings TraceSettings::in_force(std::string_view model) const {
  const auto own = models_.find(model);
  Settings out;
  for (const auto& [name, setting] : server_.by_name) {
    const Setting* found = &setting;
    if (own != models_.end()) {
      const auto at = own->second.by_name.find(name);
      if (at != own->second.by_name.end()) found = &at->second;
    }
    out.push_back(*found);
  }
  return out;
}

Settings TraceSettings::of(std::string_view model) const {
  std::lock_guard lock(mutex_);
  return in_force(model);
}

Result<Settings> TraceSettings::change(std::string_view model, const Settings& changes) {
  Settings checked;
  for (const Setting& setting : changes) {
    MILLRACE_ASSIGN(Setting one, checked_trace_setting(setting));
    checked.push_back(std::move(one));
  }
  static const TraceSettings defaults;
  std::lock_guard lock(mutex_);
  Values& values = model.empty() ? server_ : models_[std::string(model)];
  for (Setting& setting : checked) {
    if (setting.name == "trace_count") values.left = -1;
    if (!std::holds_alternative<std::monostate>(setting.value)) {
      if (setting.name == "trace_count") values.left = stored_number(setting);
      values.by_name[setting.name] = std::move(setting);
    } else if (model.empty()) {
      values.by_name[setting.name] = defaults.server_.by_name.find(setting.name)->second;
    } else {
      values.by_name.erase(setting.name);
    }
  }
  work_out();
  return in_force(model);
}

void TraceSettings::work_out() {
  const auto apply = [](const Values& from, Values& to) {
    for (const auto& [name, setting] : from.by_name) {
      if (name == "trace_level") to.on = std::get<Texts>(setting.value).front() != "OFF";
      if (name == "trace_rate") to.rate = static_cast<std::uint64_t>(stored_number(setting));
    }
  };
  apply(server_, server_);
  bool any = server_.on;
  for (auto& [name, values] : models_) {
    values.on = server_.on;
    values.rate = server_.rate;
    apply(values, values);
    any |= values.on;
  }
  any_.store(any, std::memory_order_relaxed);
}

bool TraceSettings::sample(std::string_view model, std::optional<bool> told) {
  if (!any()) return false;
  std::lock_guard lock(mutex_);
  const auto own = models_.find(model);
  Values& values = own == models_.end() ? server_ : own->second;
  Values& limit = values.by_name.contains("trace_count") ? values : server_;
  if (!values.on || limit.left == 0 || !told.value_or(true)) return false;
  if (!told && values.seen++ % values.rate != 0) return false;
  if (limit.left > 0) --limit.left;
  return true;
}

// -------------------------------------------------------------------------------------------------
// the log

LogLevel LogSettings::least(const Values& values) noexcept {
  if (values.verbose > 0) return LogLevel::debug;
  if (values.info) return LogLevel::info;
  if (values.warning) return LogLevel::warning;
  return values.error ? LogLevel::error : LogLevel::off;
}

LogSettings::Values LogSettings::in_force() const {
  const LogLevel level = log_level();
  if (level == least(values_)) return values_;
  return {level <= LogLevel::info, level <= LogLevel::warning, level <= LogLevel::error,
          level <= LogLevel::debug ? 1 : 0};
}

Settings LogSettings::all() const {
  const std::scoped_lock lock(mutex_);
  const Values values = in_force();
  return {{"log_file", std::string()},           {"log_info", values.info},
          {"log_warning", values.warning},       {"log_error", values.error},
          {"log_verbose_level", values.verbose}, {"log_format", std::string("default")}};
}

Result<Settings> LogSettings::change(const Settings& changes) {
  {
    const std::scoped_lock lock(mutex_);
    Values values = in_force();
    for (const Setting& setting : changes) {
      bool* const flag = setting.name == "log_info"      ? &values.info
                         : setting.name == "log_warning" ? &values.warning
                         : setting.name == "log_error"   ? &values.error
                                                         : nullptr;
      if (flag != nullptr) {
        const bool* on = std::get_if<bool>(&setting.value);
        if (!on) return wrong(setting, "true or false");
        *flag = *on;
      } else if (setting.name == "log_verbose_level") {
        MILLRACE_ASSIGN(values.verbose, number_of(setting, 0));
      } else if (setting.name == "log_file" || setting.name == "log_format") {
        const std::string* text = text_of(setting);
        const std::string_view only = setting.name == "log_file" ? "" : "default";
        if (!text || *text != only) {
          return Error{ErrorCode::unsupported,
                       concat("setting ", quote(setting.name),
                              " cannot be changed: the log goes to standard error")};
        }
      } else {
        return Error{ErrorCode::invalid_argument,
                     concat("setting ", quote(setting.name),
                            " is not known; there are log_info, log_warning, log_error, "
                            "log_verbose_level, log_file, log_format")};
      }
    }
    values_ = values;
    set_log_level(least(values));
  }
  return all();
}

}  // namespace millrace::server
