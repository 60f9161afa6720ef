#include "repository/model_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <filesystem>

#include "base/file.h"
#include "base/model_name.h"
#include "base/text.h"
#include "base/try.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;

constexpr int kDeepest = 8;  // folders within a version: exported weights, a SavedModel
constexpr std::size_t kMostFiles = 100'000;

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}
bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

/// "b" of "/a/b/" and of "." within it.
std::string folder_name(const std::string& folder) {
  std::error_code ignored;
  const fs::path whole = fs::absolute(folder, ignored).lexically_normal();
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

bool is_model_file(const std::string& name) {
  constexpr std::string_view kEndings[] = {".onnx", ".ort", ".plan", ".engine", ".reference.json"};
  return std::any_of(std::begin(kEndings), std::end(kEndings),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

/// Sizes and times: what tells one state of a file from another.
std::string stamp_of(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return "gone";
  return concat(status.st_size, ",", status.st_ino, ",", status.st_mtim.tv_sec, ".",
                status.st_mtim.tv_nsec);
}

Error cannot_read(const std::string& path, const std::error_code& error) {
  return {ErrorCode::unavailable,
          concat("cannot read the folder ", quote(path), ": ", error.message())};
}

/// A folder's entries in the order of their names, without hidden ones.
Result<std::vector<fs::path>> entries_of(const std::string& folder) {
  std::error_code error;
  std::vector<fs::path> out;
  fs::directory_iterator at(folder, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    if (!at->path().filename().string().starts_with('.')) out.push_back(at->path());
  }
  if (error) return cannot_read(folder, error);
  std::sort(out.begin(), out.end());
  return out;
}

/// A version's number; 0: the name is none.
std::int64_t version_of(std::string_view name) {
  std::int64_t number = 0;
  const auto end = std::from_chars(name.data(), name.data() + name.size(), number);
  const bool whole = end.ec == std::errc() && end.ptr == name.data() + name.size();
  return whole && number > 0 && name.front() != '0' ? number : 0;
}

/// Whether one of the entries is the folder of a version: a number, with a model in it.
bool has_version(const std::vector<fs::path>& entries) {
  return std::any_of(entries.begin(), entries.end(), [](const fs::path& path) {
    if (version_of(path.filename().string()) == 0 || !is_folder(path)) return false;
    std::error_code error;
    fs::directory_iterator at(path, error);
    for (; !error && at != fs::directory_iterator(); at.increment(error)) {
      if (is_file(at->path()) && is_model_file(at->path().filename().string())) return true;
    }
    return false;
  });
}

}  // namespace

bool stays_inside(const std::string& path) {
  const fs::path clean = fs::path(path).lexically_normal();
  return !path.empty() && path.find('\0') == std::string::npos && clean.is_relative() &&
         *clean.begin() != ".." && clean.string() == path;
}

Result<std::vector<ModelPlace>> find_models(const std::string& folder) {
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) {
    return Error{ErrorCode::not_found, concat("there is no folder of models ", quote(folder))};
  }
  if (!is_folder(folder)) return std::vector{ModelPlace{name_from_path(folder), folder, false}};
  if (is_file(fs::path(folder) / "millrace.json")) {
    return std::vector{ModelPlace{folder_name(folder), folder, false}};
  }
  MILLRACE_ASSIGN(const std::vector<fs::path> entries, entries_of(folder));
  if (is_file(fs::path(folder) / "config.pbtxt") || has_version(entries)) {
    return std::vector{ModelPlace{folder_name(folder), folder, true}};
  }
  std::vector<ModelPlace> out;
  for (const fs::path& path : entries) {
    const std::string name = path.filename().string();
    if (is_folder(path)) {
      const bool versions = !is_file(path / "millrace.json") || is_file(path / "config.pbtxt");
      out.push_back({name, path.string(), versions});
    } else if (is_file(path) && is_model_file(name)) {
      out.push_back({name_from_path(name), path.string(), false});
    }
  }
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < out.size(); ++i) {
    if (out[i].name != out[i - 1].name) continue;
    return Error{ErrorCode::invalid_argument,
                 concat("two models are called ", quote(out[i].name), ": ", out[i - 1].path,
                        " and ", out[i].path, "; rename or remove one")};
  }
  return out;
}

Result<ModelFiles> ModelFiles::of_folder(const std::string& path) {
  ModelFiles out;
  out.folder_ = path;
  if (!is_folder(path)) {
    return Error{ErrorCode::not_found, concat("the model's folder ", quote(path), " is gone")};
  }
  MILLRACE_TRY(out.add_folder(path, "", 0));
  out.find_versions();
  return out;
}

/// What goes while it is looked at is not there; the next look sees the rest.
Result<void> ModelFiles::add_folder(const std::string& path, const std::string& inside, int depth) {
  std::error_code error;
  fs::directory_iterator at(path, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with('.')) continue;
    if (is_folder(at->path())) {
      if (depth < kDeepest)
        MILLRACE_TRY(add_folder(at->path().string(), inside + name + "/", depth + 1));
    } else if (is_file(at->path())) {
      files_[inside + name].stamp = stamp_of(at->path());
    }
    if (files_.size() <= kMostFiles) continue;
    return Error{ErrorCode::invalid_argument, concat("the model's folder ", quote(folder_),
                                                     " holds more than ", kMostFiles, " files")};
  }
  if (error && error != std::errc::no_such_file_or_directory) return cannot_read(path, error);
  return {};
}

Result<ModelFiles> ModelFiles::of_contents(const std::map<std::string, std::string>& contents) {
  static std::atomic<std::uint64_t> count{0};
  ModelFiles out;
  const std::string stamp = concat("sent ", ++count);
  for (const auto& [path, content] : contents) {
    if (!stays_inside(path)) {
      return Error{ErrorCode::invalid_argument,
                   concat("the file ", quote(path),
                          " that came with the request: expected a path "
                          "within the model, such as \"1/model.onnx\"")};
    }
    out.files_[path] = {stamp, std::make_shared<const std::string>(content)};
  }
  out.find_versions();
  return out;
}

void ModelFiles::find_versions() {
  for (const auto& [path, file] : files_) {
    const std::size_t slash = path.find('/');
    if (slash == std::string::npos) continue;
    const std::int64_t version = version_of(std::string_view(path).substr(0, slash));
    if (version > 0) versions_.push_back(version);
  }
  // A version's folder may be empty: reference models and ensembles need no file.
  if (!folder_.empty()) {
    std::error_code error;
    fs::directory_iterator at(folder_, error);
    for (; !error && at != fs::directory_iterator(); at.increment(error)) {
      const std::int64_t version = version_of(at->path().filename().string());
      if (version > 0 && is_folder(at->path())) versions_.push_back(version);
    }
  }
  std::sort(versions_.begin(), versions_.end());
  versions_.erase(std::unique(versions_.begin(), versions_.end()), versions_.end());
}

std::vector<std::string> ModelFiles::names(std::string_view folder) const {
  std::vector<std::string> out;
  for (const auto& [path, file] : files_) {
    const std::size_t slash = path.rfind('/');
    const std::string_view in =
        slash == std::string::npos ? std::string_view() : std::string_view(path).substr(0, slash);
    if (in == folder) out.push_back(slash == std::string::npos ? path : path.substr(slash + 1));
  }
  return out;
}

bool ModelFiles::has(std::string_view path) const { return files_.contains(path); }

std::string ModelFiles::path(std::string_view name) const {
  return folder_.empty() ? std::string(name) : (fs::path(folder_) / name).string();
}

std::shared_ptr<const std::string> ModelFiles::content(std::string_view path) const {
  const auto at = files_.find(path);
  return at == files_.end() ? nullptr : at->second.content;
}

Result<std::string> ModelFiles::read(std::string_view name, std::size_t limit_bytes) const {
  if (!folder_.empty()) return read_file(path(name), limit_bytes);
  const std::shared_ptr<const std::string> sent = content(name);
  if (!sent) {
    return Error{ErrorCode::not_found, concat("no file ", quote(name), " came with the request")};
  }
  if (sent->size() > limit_bytes) {
    return Error{ErrorCode::invalid_argument,
                 concat(quote(name), " has ", format_bytes(sent->size()), ", expected at most ",
                        format_bytes(limit_bytes))};
  }
  return *sent;
}

std::string ModelFiles::fingerprint(std::int64_t version) const {
  const std::string own = std::to_string(version) + "/";
  std::string out;
  for (const auto& [path, file] : files_) {
    const std::size_t slash = path.find('/');
    const bool other = slash != std::string::npos && !path.starts_with(own) &&
                       version_of(std::string_view(path).substr(0, slash)) > 0;
    if (!other) out += concat(path, "=", file.stamp, "\n");
  }
  return out;
}

std::string ModelFiles::fingerprint() const {
  std::string out = join(versions_, ",");
  for (const auto& [path, file] : files_) out += concat("\n", path, "=", file.stamp);
  return out;
}

std::string fingerprint_of(const ModelPlace& place) {
  if (is_folder(place.path)) {
    const Result<ModelFiles> files = ModelFiles::of_folder(place.path);
    return files ? files->fingerprint() : "gone";
  }
  fs::path beside = place.path;
  beside.replace_extension(".json");
  return concat(stamp_of(place.path), "\n", stamp_of(beside));
}

}  // namespace millrace
