// Where the inputs of "millrace run" come from: arrays, archives, pictures and folders of pictures.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <millrace/model.h>

#include "io/preprocess.h"

namespace millrace::cli {

/// One input of the model: gives its part of every request.
class InputSource {
 public:
  virtual ~InputSource() = default;
  /// How many items there are; 0: the same tensor goes into every request.
  [[nodiscard]] virtual std::int64_t items() const = 0;
  /// Items `first` up to `first + count`, with a lease on the memory.
  [[nodiscard]] virtual Result<NamedTensor> take(std::int64_t first, std::int64_t count) const = 0;
  /// What to call an item; empty: its number.
  [[nodiscard]] virtual std::string item_name(std::int64_t item) const = 0;
  /// Where it comes from, for messages.
  [[nodiscard]] virtual std::string origin() const = 0;
};

/// All inputs of a model, in agreement about the number of items.
struct Inputs {
  std::vector<std::unique_ptr<InputSource>> sources;
  std::int64_t items = 0;
  std::int64_t items_per_request = 1;
  bool pictures = false;

  [[nodiscard]] std::int64_t requests() const {
    return (items + items_per_request - 1) / items_per_request;
  }
  [[nodiscard]] std::int64_t items_of(std::int64_t request) const;
  [[nodiscard]] Result<Request> request(std::int64_t index) const;
  [[nodiscard]] std::string item_name(std::int64_t item) const;
};

/// What the user gave: "name=FILE" or, where only one input can be meant, "FILE"; preprocessing
/// that goes on top of the configuration's.
struct InputArguments {
  std::vector<std::string> inputs;
  std::string preprocess;
};

/// Opens everything named. Arrays are checked against the model's inputs here, since they are cut
/// into requests; pictures are looked at when their turn comes. Errors: invalid_argument for a name
/// that is not an input, one that comes twice or is missing, a wrong type, rank or dimension,
/// inputs that disagree about the number of items; those of reading. Throws UsageError when an
/// argument cannot be read.
[[nodiscard]] Result<Inputs> open_inputs(const InputArguments& arguments, const ModelInfo& model,
                                         const std::map<std::string, ImagePreprocess>& configured);

}  // namespace millrace::cli
