#include "cli/run_inputs.h"

#include <algorithm>
#include <filesystem>

#include "cli/print.h"
#include "cli/verbs.h"
#include "io/npy.h"
#include "io/npz.h"

namespace millrace::cli {
namespace {

namespace fs = std::filesystem;

Error wrong(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

std::string names_of(const std::vector<TensorInfo>& tensors) {
  std::string names;
  for (const TensorInfo& tensor : tensors)
    names += (names.empty() ? "" : ", ") + in_quotes(tensor.name);
  return names;
}

const TensorInfo* find_input(const ModelInfo& model, std::string_view name) {
  for (const TensorInfo& input : model.inputs) {
    if (input.name == name) return &input;
  }
  return nullptr;
}

class ArraySource final : public InputSource {
 public:
  ArraySource(const TensorInfo& info, Tensor tensor, std::string origin)
      : name_(info.name),
        batched_(info.batch_axis == 0),
        tensor_(std::move(tensor)),
        origin_(std::move(origin)) {}

  std::int64_t items() const override { return batched_ ? tensor_.shape()[0] : 0; }
  Result<NamedTensor> take(std::int64_t first, std::int64_t count) const override {
    return NamedTensor{name_, batched_ ? slice(tensor_.view(), first, count) : tensor_.view(),
                       tensor_.lease()};
  }
  std::string item_name(std::int64_t) const override { return {}; }
  std::string origin() const override { return origin_; }

 private:
  std::string name_;
  bool batched_;
  Tensor tensor_;
  std::string origin_;
};

class PictureSource final : public InputSource {
 public:
  PictureSource(const TensorInfo& info, PreprocessPlan plan, std::vector<std::string> files,
                std::string origin)
      : name_(info.name), plan_(plan), files_(std::move(files)), origin_(std::move(origin)) {}

  std::int64_t items() const override { return static_cast<std::int64_t>(files_.size()); }
  Result<NamedTensor> take(std::int64_t first, std::int64_t) const override {
    Result<Image> image =
        read_image(files_[static_cast<std::size_t>(first)], plan_.channel_count());
    if (!image.ok()) return std::move(image).error();
    Result<Tensor> tensor = preprocess_image(*image, plan_);
    if (!tensor.ok()) return std::move(tensor).error();
    return NamedTensor{name_, tensor->view(), tensor->lease()};
  }
  std::string item_name(std::int64_t item) const override {
    return fs::path(files_[static_cast<std::size_t>(item)]).filename().string();
  }
  std::string origin() const override { return origin_; }

 private:
  std::string name_;
  PreprocessPlan plan_;
  std::vector<std::string> files_;
  std::string origin_;
};

Result<void> check_array(const TensorInfo& info, const TensorView& view,
                         const std::string& origin) {
  Shape pattern = info.shape;
  if (info.batch_axis == 0) pattern[0] = kDynamic;
  if (view.type == info.type && matches(view.shape, pattern)) return {};
  return wrong("input " + in_quotes(info.name) + ": expected " + to_string(pattern) + " " +
               std::string(to_string(info.type)) + ", got " + to_string(view.shape) + " " +
               std::string(to_string(view.type)) + " from " + origin +
               "; see \"millrace inspect\"");
}

// The pictures of a folder by name, or the one that is named.
Result<std::vector<std::string>> pictures_of(const std::string& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return std::vector<std::string>{path};
  std::vector<std::string> files;
  for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
    if (is_image_name(at->path().filename().string())) files.push_back(at->path().string());
  }
  if (error)
    return Error{ErrorCode::unavailable,
                 "cannot read the folder " + in_quotes(path) + ": " + error.message()};
  if (files.empty())
    return wrong("the folder " + in_quotes(path) +
                 " holds no picture: expected .png, .jpg or .jpeg files");
  std::sort(files.begin(), files.end());
  return files;
}

// Opens arguments one by one into sources, at most one for each input.
class Opener {
 public:
  Opener(const InputArguments& arguments, const ModelInfo& model,
         const std::map<std::string, ImagePreprocess>& configured)
      : arguments_(arguments), model_(model), configured_(configured) {}

  Result<Inputs> open() {
    for (const std::string& argument : arguments_.inputs) {
      Result<void> opened = open_one(argument);
      if (!opened.ok()) return std::move(opened).error();
    }
    Inputs inputs;
    for (const TensorInfo& input : model_.inputs) {
      const auto found = sources_.find(input.name);
      if (found == sources_.end()) {
        return wrong("the model's input " + in_quotes(input.name) + " is missing; its inputs are " +
                     names_of(model_.inputs) + "; give each as --input name=FILE");
      }
      inputs.sources.push_back(std::move(found->second));
    }
    inputs.pictures = pictures_;
    Result<void> counted = count(inputs);
    if (!counted.ok()) return std::move(counted).error();
    return inputs;
  }

 private:
  Result<void> open_one(const std::string& argument) {
    const std::size_t equals = argument.find('=');
    const std::string name = equals == std::string::npos ? "" : argument.substr(0, equals);
    const TensorInfo* input = equals == std::string::npos ? nullptr : find_input(model_, name);
    std::error_code ignored;
    if (!input && equals != std::string::npos && !fs::exists(argument, ignored)) {
      return wrong("the model has no input " + in_quotes(name) + "; its inputs are " +
                   names_of(model_.inputs));
    }
    const std::string path = input ? argument.substr(equals + 1) : argument;
    if (path.empty()) throw UsageError("--input: expected name=FILE, got \"" + argument + "\"");
    if (!fs::exists(path, ignored)) {
      return Error{ErrorCode::not_found,
                   "cannot read " + in_quotes(path) + ": there is no such file or folder"};
    }
    if (fs::path(path).extension() == ".npz") return open_archive(input, path);
    if (!input) {
      if (model_.inputs.size() != 1) {
        throw UsageError("--input: expected name=FILE, since the model has the inputs " +
                         names_of(model_.inputs) + "; got \"" + argument + "\"");
      }
      input = &model_.inputs[0];
    }
    if (fs::is_directory(path, ignored) || is_image_name(path)) return open_pictures(*input, path);
    if (fs::path(path).extension() == ".npy") {
      Result<Tensor> tensor = read_npy(path);
      if (!tensor.ok()) return std::move(tensor).error();
      return add_array(*input, std::move(*tensor), path);
    }
    return wrong("cannot tell what " + in_quotes(path) +
                 " is: expected a name that ends in .npy, .npz, .png, .jpg or .jpeg, or a folder");
  }

  // One array of an archive for the input named, or all that are called like inputs.
  Result<void> open_archive(const TensorInfo* input, const std::string& path) {
    Result<std::vector<NamedArray>> arrays = read_npz(path);
    if (!arrays.ok()) return std::move(arrays).error();
    std::string names;
    std::size_t used = 0;
    for (NamedArray& array : *arrays) {
      names += (names.empty() ? "" : ", ") + in_quotes(array.name);
      const bool only = arrays->size() == 1;
      const TensorInfo* target = find_input(model_, array.name);
      if (input) target = only || array.name == input->name ? input : nullptr;
      if (!target) continue;
      ++used;
      Result<void> added = add_array(*target, Tensor(array.view, std::move(array.lease)), path);
      if (!added.ok()) return added;
    }
    if (used > 0) return {};
    return wrong(
        path + ": expected an array named " +
        (input ? in_quotes(input->name) : "like an input (" + names_of(model_.inputs) + ")") +
        ", got " + (names.empty() ? "none" : names));
  }

  Result<void> open_pictures(const TensorInfo& input, const std::string& path) {
    ImagePreprocess stated;
    if (const auto found = configured_.find(input.name); found != configured_.end())
      stated = found->second;
    if (!arguments_.preprocess.empty()) {
      Result<ImagePreprocess> merged = parse_preprocess_text(arguments_.preprocess, stated);
      if (!merged.ok()) throw UsageError("--" + merged.error().message);
      stated = std::move(*merged);
    }
    Result<PreprocessPlan> plan = plan_preprocess(stated, input);
    if (!plan.ok()) return std::move(plan).error();
    Result<std::vector<std::string>> files = pictures_of(path);
    if (!files.ok()) return std::move(files).error();
    pictures_ = true;
    return add(input, std::make_unique<PictureSource>(input, *plan, std::move(*files), path));
  }

  Result<void> add_array(const TensorInfo& input, Tensor tensor, const std::string& path) {
    Result<void> checked = check_array(input, tensor.view(), path);
    if (!checked.ok()) return checked;
    if (input.batch_axis == 0 && tensor.shape()[0] == 0)
      return wrong("input " + in_quotes(input.name) + ": " + path + " holds no items");
    return add(input, std::make_unique<ArraySource>(input, std::move(tensor), path));
  }

  Result<void> add(const TensorInfo& input, std::unique_ptr<InputSource> source) {
    if (sources_.emplace(input.name, std::move(source)).second) return {};
    return wrong("the input " + in_quotes(input.name) + " is given twice");
  }

  Result<void> count(Inputs& inputs) const {
    const InputSource* first = nullptr;
    for (const auto& source : inputs.sources) {
      if (source->items() == 0) continue;
      if (!first) first = source.get();
      if (source->items() != first->items()) {
        return wrong("the inputs disagree: " + first->origin() + " has " +
                     std::to_string(first->items()) + " items, " + source->origin() + " has " +
                     std::to_string(source->items()));
      }
    }
    inputs.items = first ? first->items() : 1;
    inputs.items_per_request =
        inputs.pictures || !first ? 1 : std::min(inputs.items, model_.max_items);
    return {};
  }

  const InputArguments& arguments_;
  const ModelInfo& model_;
  const std::map<std::string, ImagePreprocess>& configured_;
  std::map<std::string, std::unique_ptr<InputSource>> sources_;
  bool pictures_ = false;
};

}  // namespace

std::int64_t Inputs::items_of(std::int64_t request) const {
  return std::min(items_per_request, items - request * items_per_request);
}

Result<Request> Inputs::request(std::int64_t index) const {
  Request request;
  for (const auto& source : sources) {
    Result<NamedTensor> input = source->take(index * items_per_request, items_of(index));
    if (!input.ok()) return std::move(input).error();
    request.inputs.push_back(std::move(*input));
  }
  return request;
}

std::string Inputs::item_name(std::int64_t item) const {
  for (const auto& source : sources) {
    std::string name = source->items() > 0 ? source->item_name(item) : std::string();
    if (!name.empty()) return name;
  }
  return std::to_string(item);
}

Result<Inputs> open_inputs(const InputArguments& arguments, const ModelInfo& model,
                           const std::map<std::string, ImagePreprocess>& configured) {
  return Opener(arguments, model, configured).open();
}

}  // namespace millrace::cli
