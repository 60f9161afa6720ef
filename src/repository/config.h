// Configuration files of models: millrace.json in a model's folder, or NAME.json beside NAME.onnx.
//
//   { "model": "digits.onnx",            a file beside this one, or "reference:KIND?..."
//     "name": "digits", "backend": "auto", "devices": ["cuda:0"], "lanes": 2, "slots": 2,
//     "batching": {"max_items": 32, "preferred_items": [8, 16], "max_delay": "2ms",
//     "preserve_order": false}, "limits": {"max_requests": 65536, "max_bytes": "1GiB",
//     "default_timeout": "500ms"}, "priority": 0, "weight": 1.0, "hang_timeout": "60s", "options":
//     {"name": "value"}, "plugins": ["libmish.so"],  files
//     "labels": "labels.txt",            names of classes, one a line
//     "preprocess": {"images": {...}},   per input: see io/preprocess.h
//     "models": ["../detector"],         ensembles: what is to be loaded before
//     "ensemble": {"steps": [{"model": "detector", "inputs": {"x": "image"}, "outputs": {"y":
//     "boxes"}}],
//                  "outputs": ["boxes"]} }
//
// Every field may be left out but "model" or "ensemble". Unknown fields are refused.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <millrace/model.h>

#include "io/preprocess.h"

namespace millrace {

/// A model as its files state it. Paths are as given, or joined to the folder of the configuration.
struct ModelFile {
  ModelConfig config;
  std::string configuration;  // the file that said so; empty: none was there
  std::string labels;         // path; empty: none
  std::map<std::string, ImagePreprocess> preprocess;  // by input
  std::vector<std::string> models;  // to be loaded before this one, as arguments of `read_model`
};

/// Reads a configuration. `path` is the file it came from: relative paths in it start there.
/// Errors: invalid_argument, naming file, field, what was expected and what was found.
[[nodiscard]] Result<ModelFile> parse_model_config(std::string_view json, const std::string& path);
/// The same from a file. Errors: also not_found, unavailable.
[[nodiscard]] Result<ModelFile> read_model_config(const std::string& path);

/// What a user may name as a model: a configuration file; a folder that holds millrace.json (or is
/// itself a model); a model file, with its configuration NAME.json beside it, or millrace.json
/// there if that names this file; or "reference:KIND?...". Errors: as above; not_found when there
/// is no such file.
[[nodiscard]] Result<ModelFile> read_model(const std::string& argument);

/// What an engine calls a model whose configuration gives no name.
[[nodiscard]] std::string default_name(const ModelConfig& config);

}  // namespace millrace
