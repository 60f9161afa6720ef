// For tests: a folder of models that goes with the test, and an engine on host devices to load
// them.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <millrace/engine.h>

#include "base/file.h"

namespace millrace::testing {

class TestFolder {
 public:
  TestFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "millrace_models_XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  TestFolder(const TestFolder&) = delete;
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] std::string path(std::string_view name = "") const {
    return name.empty() ? path_.string() : (path_ / name).string();
  }
  void write(const std::string& name, std::string_view content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    const Result<void> written = write_file(path(name), content);
    EXPECT_TRUE(written.ok()) << (written.ok() ? "" : written.error().message);
  }
  void remove(const std::string& name) const { std::filesystem::remove_all(path_ / name); }
  void copy(const std::string& from, const std::string& name) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::filesystem::copy_file(from, path_ / name,
                               std::filesystem::copy_options::overwrite_existing);
  }
  /// A version of a reference model: "kind?options" becomes its file.
  void reference(const std::string& model, int version, std::string_view json) const {
    write(model + "/" + std::to_string(version) + "/model.reference.json", json);
  }

 private:
  std::filesystem::path path_;
};

inline Engine host_engine(std::size_t memory_limit_bytes = 0) {
  EngineOptions options;
  options.devices.devices = {"host:0"};
  HostDeviceOptions host;
  host.memory_limit_bytes = memory_limit_bytes;
  options.devices.host = {host};
  Result<Engine> engine = Engine::create(std::move(options));
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  return std::move(engine).value();
}

}  // namespace millrace::testing
