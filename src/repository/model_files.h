// The files of models: which models a repository's folders hold, which versions each has, and what
// is in them.
//
//   FOLDER/NAME/config.pbtxt            the configuration, which may be left out
//   FOLDER/NAME/VERSION/model.onnx      VERSION: a whole number above 0
//   FOLDER/NAME/millrace.json           or a configuration as the command line takes it: one
//   version, 1 FOLDER/NAME.onnx                    or a single file (with NAME.json beside it): one
//   version, 1
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/error.h>

namespace millrace {

/// A model that was found, not yet looked into.
struct ModelPlace {
  std::string name;
  std::string path;      // its folder; of a single file: the file
  bool versions = true;  // whether it has the layout with versions
};

/// The models in a folder, by name; a model file or a folder with millrace.json stands for itself.
/// Names that begin with a point are not looked at, nor are files that are no models. Errors:
/// not_found; unavailable when it cannot be read; invalid_argument for two models of one name.
[[nodiscard]] Result<std::vector<ModelPlace>> find_models(const std::string& folder);

/// The files of one model with versions: in its folder, or as a client sent them. A value.
class ModelFiles {
 public:
  /// Those of a folder, as they are now. Errors: not_found; unavailable when it cannot be read.
  [[nodiscard]] static Result<ModelFiles> of_folder(const std::string& path);
  /// Content by path ("1/model.onnx"). Errors: invalid_argument for paths that lead out of the
  /// model.
  [[nodiscard]] static Result<ModelFiles> of_contents(
      const std::map<std::string, std::string>& contents);

  /// Ascending.
  [[nodiscard]] const std::vector<std::int64_t>& versions() const noexcept { return versions_; }
  /// Names within a folder of the model ("" is the model's own), without those in folders of it.
  [[nodiscard]] std::vector<std::string> names(std::string_view folder) const;
  [[nodiscard]] bool has(std::string_view path) const;
  /// Where a file is; of contents, what to call it.
  [[nodiscard]] std::string path(std::string_view name) const;
  /// The content, if a client sent it; null: it is on disk.
  [[nodiscard]] std::shared_ptr<const std::string> content(std::string_view path) const;
  /// Errors: not_found, unavailable; invalid_argument when it is larger than `limit_bytes`.
  [[nodiscard]] Result<std::string> read(std::string_view path, std::size_t limit_bytes) const;

  /// Changes whenever a file that concerns all versions, or this one, does: names, sizes, times of
  /// change. Of contents: as given.
  [[nodiscard]] std::string fingerprint(std::int64_t version) const;
  /// Over all files.
  [[nodiscard]] std::string fingerprint() const;

 private:
  struct File {
    std::string stamp;  // size and time of change
    std::shared_ptr<const std::string> content;
  };
  Result<void> add_folder(const std::string& path, const std::string& inside, int depth);
  void find_versions();

  std::string folder_;
  std::map<std::string, File, std::less<>> files_;  // by path within the model
  std::vector<std::int64_t> versions_;
};

/// Whether a relative path names something within the folder that it starts at, and plainly.
[[nodiscard]] bool stays_inside(const std::string& path);

/// Of the files that a model which is not in a folder of its own consists of.
[[nodiscard]] std::string fingerprint_of(const ModelPlace& place);

}  // namespace millrace
