#include "io/fields.h"

#include <algorithm>
#include <set>

#include "base/text.h"

namespace millrace {
namespace {

using nlohmann::json;

constexpr int kDeepest = 64;  // what prints a document recurses

// Changes of single characters, and swaps of neighbours, that make one text of the other.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> above(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({change, above[j] + 1, row[j - 1] + 1});
      const bool swap = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swap) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view name, std::span<const std::string_view> known) {
  constexpr std::size_t kLongest = 64;
  if (name.size() > kLongest) return {};
  std::string_view best;
  std::size_t least = std::max<std::size_t>(name.size() / 3, 1) + 1;
  for (const std::string_view candidate : known) {
    // A part of a longer name, as in "delay" for "max_delay", counts as near too.
    const bool part = name.size() >= 4 && candidate.find(name) != std::string_view::npos;
    const std::size_t far = part ? 1 : distance(name, candidate);
    if (far < least) {
      least = far;
      best = candidate;
    }
  }
  return std::string(best);
}

std::string unknown_field(std::string_view name, std::span<const std::string_view> known) {
  const std::string nearest = nearest_name(name, known);
  if (!nearest.empty())
    return concat("unknown field ", quote(name), "; did you mean ", quote(nearest), "?");
  return concat("unknown field ", quote(name), "; known are ", join(known, ", "));
}

Result<json> parse_json(std::string_view text, std::string_view where) {
  std::vector<std::set<std::string>> names;  // of the objects that are open
  std::string twice;
  bool deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    deep = deep || depth > kDeepest;
    if (event == json::parse_event_t::object_start) names.emplace_back();
    if (event == json::parse_event_t::object_end) names.pop_back();
    if (event == json::parse_event_t::key &&
        !names.back().insert(value.get<std::string>()).second) {
      twice = value.get<std::string>();
    }
    return !deep;
  };
  try {
    json value = json::parse(text, watch);
    if (deep)
      return Error{ErrorCode::invalid_argument,
                   concat(where, ": expected at most ", kDeepest, " levels of nesting")};
    if (twice.empty()) return value;
    return Error{ErrorCode::invalid_argument,
                 concat(where, ": the field ", quote(twice), " comes twice")};
  } catch (const json::parse_error& error) {
    const std::string_view before = text.substr(0, std::min(error.byte, text.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    std::string_view what = error.what();
    const std::size_t colon = what.find("syntax error");
    if (colon != std::string_view::npos) what.remove_prefix(colon);
    return Error{ErrorCode::invalid_argument,
                 concat(where, ": expected JSON; line ", line, ": ", what)};
  } catch (const json::exception& error) {  // a number out of every range
    return Error{ErrorCode::invalid_argument, concat(where, ": expected JSON: ", error.what())};
  }
}

std::string shown(const json& value) {
  constexpr std::size_t kMost = 60;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

Fields::Fields(const json& value, std::string where, std::span<const std::string_view> known)
    : value_(value), where_(std::move(where)) {
  if (!value.is_object()) {
    fail(Error{ErrorCode::invalid_argument,
               concat(where_, ": expected an object {...}, got ", shown(value))});
    return;
  }
  for (const auto& [name, unused] : value.items()) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    fail(Error{ErrorCode::invalid_argument, concat(where_, ": ", unknown_field(name, known))});
    return;
  }
}

bool Fields::has(std::string_view name) const { return find(name) != nullptr; }

const json* Fields::find(std::string_view name) const {
  if (!result_.ok()) return nullptr;
  const auto found = value_.find(std::string(name));
  return found == value_.end() ? nullptr : &*found;
}

std::string Fields::where(std::string_view name) const { return concat(where_, ": ", name); }

void Fields::fail(Error error) {
  if (result_.ok()) result_ = std::move(error);
}

void Fields::fail(std::string_view name, std::string_view expected, const json& found) {
  fail(Error{ErrorCode::invalid_argument,
             concat(where(name), ": expected ", expected, ", got ", shown(found))});
}

void Fields::text(std::string_view name, std::string& out) {
  const json* value = find(name);
  if (!value) return;
  if (!value->is_string() || value->get_ref<const std::string&>().empty())
    return fail(name, "a text", *value);
  out = value->get<std::string>();
}

void Fields::flag(std::string_view name, bool& out) {
  const json* value = find(name);
  if (!value) return;
  if (!value->is_boolean()) return fail(name, "true or false", *value);
  out = value->get<bool>();
}

void Fields::number(std::string_view name, double& out, double low, double high) {
  const json* value = find(name);
  if (!value) return;
  const bool good =
      value->is_number() && value->get<double>() >= low && value->get<double>() <= high;
  if (!good) return fail(name, concat("a number from ", low, " to ", high), *value);
  out = value->get<double>();
}

void Fields::texts(std::string_view name, std::vector<std::string>& out) {
  const json* value = find(name);
  if (!value) return;
  if (!value->is_array()) return fail(name, "a list of texts", *value);
  out.clear();
  for (const json& element : *value) {
    if (!element.is_string()) return fail(name, "a list of texts", *value);
    out.push_back(element.get<std::string>());
  }
}

void Fields::text_map(std::string_view name, std::map<std::string, std::string>& out) {
  const json* value = find(name);
  if (!value) return;
  if (!value->is_object()) return fail(name, "an object of texts", *value);
  out.clear();
  for (const auto& [key, element] : value->items()) {
    if (element.is_string()) {
      out[key] = element.get<std::string>();
    } else if (element.is_number() || element.is_boolean()) {
      out[key] = element.dump();
    } else {
      return fail(concat(name, ".", key), "a text, number or boolean", element);
    }
  }
}

bool Fields::whole(std::string_view name, std::int64_t& out, std::int64_t low, std::int64_t high) {
  const json* value = find(name);
  if (!value) return false;
  const bool small = value->is_number_integer() &&
                     (!value->is_number_unsigned() ||
                      value->get<std::uint64_t>() <=
                          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()));
  if (!small || value->get<std::int64_t>() < low || value->get<std::int64_t>() > high) {
    fail(name, concat("a whole number from ", low, " to ", high), *value);
    return false;
  }
  out = value->get<std::int64_t>();
  return true;
}

}  // namespace millrace
