#include "cli/run_outputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/elements.h"

namespace millrace::cli {
namespace {

std::string_view string_at(const TensorView& view, std::int64_t i) {
  return {static_cast<const char*>(view.data) + view.offsets[i],
          static_cast<std::size_t>(view.offsets[i + 1] - view.offsets[i])};
}

std::int64_t count_of(const TensorView& view) {
  const Result<std::int64_t> count = element_count(view.shape);
  return count.ok() ? *count : 0;
}

Json element_json(const TensorView& view, std::int64_t i) {
  switch (view.type) {
    case DataType::bytes:
      return std::string(string_at(view, i));
    case DataType::boolean:
      return element_value(view, i) != 0;
    case DataType::uint64:
      return static_cast<const std::uint64_t*>(view.data)[i];
    case DataType::int64:
      return static_cast<const std::int64_t*>(view.data)[i];
    case DataType::uint8:
    case DataType::uint16:
    case DataType::uint32:
    case DataType::int8:
    case DataType::int16:
    case DataType::int32:
      return static_cast<std::int64_t>(element_value(view, i));
    default:
      return element_value(view, i);
  }
}

// The block of `view` from dimension `d` on, whose first element is number `at`.
Json nested(const TensorView& view, std::size_t d, std::int64_t& at) {
  if (d == view.shape.rank()) return element_json(view, at++);
  Json list = Json::array();
  for (std::int64_t i = 0; i < view.shape[d]; ++i) list.push_back(nested(view, d + 1, at));
  return list;
}

}  // namespace

Json values_json(const TensorView& view, std::int64_t row) {
  std::int64_t at = 0;
  if (row < 0) return nested(view, 0, at);
  at = view.shape[0] == 0 ? 0 : row * (count_of(view) / view.shape[0]);
  return nested(view, 1, at);
}

void OutputSummary::add(const TensorView& view) {
  Shape item;
  for (std::size_t d = 1; d < view.shape.rank(); ++d) item.push_back(view.shape[d]);
  if (answers_ == 0) item_shape_ = item;
  for (std::size_t d = 0; d < item.rank() && d < item_shape_.rank(); ++d) {
    if (item_shape_[d] != item[d]) item_shape_[d] = kDynamic;
  }
  if (view.shape.rank() > 0) rows_ += view.shape[0];
  ++answers_;
  const std::int64_t count = count_of(view);
  constexpr std::size_t kShown = 4;
  for (std::int64_t i = 0; i < count; ++i) {
    const bool text = view.type == DataType::bytes;
    const double value =
        text ? static_cast<double>(string_at(view, i).size()) : element_value(view, i);
    if (first_.size() < kShown)
      first_.push_back(text ? in_quotes(string_at(view, i).substr(0, 24)) : format_value(value));
    if (std::isnan(value)) {
      ++no_numbers_;
      continue;
    }
    lowest_ = elements_ == no_numbers_ ? value : std::min(lowest_, value);
    highest_ = elements_ == no_numbers_ ? value : std::max(highest_, value);
    sum_ += value;
    ++elements_;
  }
}

std::string OutputSummary::shape_text() const {
  if (rows_ == 0 && item_shape_.rank() == 0 && elements_ > 0) return "[]";
  std::string text = "[" + std::to_string(rows_);
  for (const std::int64_t size : item_shape_)
    text += "," + (size == kDynamic ? std::string("?") : std::to_string(size));
  return text + "]";
}

Json OutputSummary::json() const {
  Json out = {{"name", name_},
              {"type", to_string(type_)},
              {"shape", shape_text()},
              {"elements", elements_ + no_numbers_}};
  if (type_ == DataType::bytes || elements_ == 0) return out;
  out["min"] = lowest_;
  out["mean"] = sum_ / static_cast<double>(elements_);
  out["max"] = highest_;
  if (no_numbers_ > 0) out["nan"] = no_numbers_;
  return out;
}

std::vector<std::string> OutputSummary::row() const {
  std::string first;
  for (const std::string& value : first_) first += (first.empty() ? "" : " ") + value;
  if (elements_ + no_numbers_ > first_.size()) first += " ...";
  if (no_numbers_ > 0) first += " (" + format_count(no_numbers_) + " are no numbers)";
  const bool figures = type_ != DataType::bytes && elements_ > 0;
  const auto figure = [&](double value) {
    return figures ? format_value(value) : std::string("-");
  };
  return {printable(name_),
          std::string(to_string(type_)),
          shape_text(),
          figure(lowest_),
          figure(figures ? sum_ / static_cast<double>(elements_) : 0),
          figure(highest_),
          first};
}

Result<void> OutputCollector::add(const TensorView& view) {
  if (view.type == DataType::bytes) {
    std::vector<std::string_view> texts;
    for (std::int64_t i = 0; i < count_of(view); ++i) texts.push_back(string_at(view, i));
    Result<Tensor> copy = Tensor::of_strings(texts, view.shape);
    if (!copy.ok()) return std::move(copy).error();
    parts_.push_back(std::move(*copy));
    return {};
  }
  Result<Tensor> copy = Tensor::allocate(view.type, view.shape);
  if (!copy.ok()) return std::move(copy).error();
  Result<std::size_t> bytes = view.bytes();
  if (!bytes.ok()) return std::move(bytes).error();
  if (*bytes > 0) std::memcpy(copy->view().data, view.data, *bytes);
  parts_.push_back(std::move(*copy));
  return {};
}

// Whether the parts can be put under one another.
bool OutputCollector::alike() const {
  const Shape& shape = parts_.front().shape();
  return shape.rank() > 0 && std::all_of(parts_.begin(), parts_.end(), [&](const Tensor& part) {
           Shape same_rows = part.shape();
           if (same_rows.rank() == 0) return false;
           same_rows[0] = shape[0];
           return same_rows == shape && part.type() == parts_.front().type();
         });
}

Result<NamedTensor> OutputCollector::joined() const {
  Shape shape = parts_.front().shape();
  shape[0] = 0;
  for (const Tensor& part : parts_) shape[0] += part.shape()[0];
  if (parts_.front().type() == DataType::bytes) {
    std::vector<std::string_view> texts;
    for (const Tensor& part : parts_) {
      for (std::int64_t i = 0; i < count_of(part.view()); ++i) texts.push_back(part.string_at(i));
    }
    Result<Tensor> whole = Tensor::of_strings(texts, shape);
    if (!whole.ok()) return std::move(whole).error();
    return NamedTensor{name_, whole->view(), whole->lease()};
  }
  Result<Tensor> whole = Tensor::allocate(parts_.front().type(), shape);
  if (!whole.ok()) return std::move(whole).error();
  auto* target = static_cast<char*>(whole->view().data);
  for (const Tensor& part : parts_) {
    Result<std::size_t> bytes = part.view().bytes();
    if (!bytes.ok()) return std::move(bytes).error();
    if (*bytes > 0) std::memcpy(target, part.view().data, *bytes);
    target += *bytes;
  }
  return NamedTensor{name_, whole->view(), whole->lease()};
}

Result<std::vector<NamedTensor>> OutputCollector::arrays() const {
  std::vector<NamedTensor> arrays;
  if (parts_.empty()) return arrays;
  if (parts_.size() > 1 && alike()) {
    Result<NamedTensor> whole = joined();
    if (!whole.ok()) return std::move(whole).error();
    arrays.push_back(std::move(*whole));
    return arrays;
  }
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    const std::string name = parts_.size() == 1 ? name_ : name_ + "." + std::to_string(i);
    arrays.push_back({name, parts_[i].view(), parts_[i].lease()});
  }
  return arrays;
}

}  // namespace millrace::cli
