#include "backends/tensorrt/engine_cache.h"

#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <functional>
#include <set>
#include <thread>

#include "backends/test_harness.h"
#include "base/file.h"

namespace millrace::tensorrt {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using testing::text_of;

EngineKey key_of(std::string model, const std::string& content = "content") {
  EngineKey key;
  key.model = std::move(model);
  key.model_hash = hash_of(content);
  key.options = "precision=tf32";
  key.device = "NVIDIA H200 (9.0)";
  key.builder = "TensorRT 10.6.0";
  return key;
}

class TensorrtCache : public ::testing::Test {
 protected:
  TensorrtCache() {
    static int number = 0;
    folder_ = fs::path(::testing::TempDir()) /
              ("engines" + std::to_string(getpid()) + "-" + std::to_string(++number));
  }
  ~TensorrtCache() override { fs::remove_all(folder_); }

  [[nodiscard]] std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  [[nodiscard]] EngineCache cache() const { return EngineCache(folder_.string()); }
  void put(const std::string& name, std::string_view text) const {
    fs::create_directories(folder_);
    const Result<void> written = write_file((folder_ / name).string(), text);
    ASSERT_TRUE(written.ok()) << text_of(written);
  }

  fs::path folder_;
};

TEST(TensorrtHash, IsXxh3Of128Bits) {
  EXPECT_EQ(hash_of(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(hash_of("abc"), "06b05ab6733a618578af5f94892f3950");
  EXPECT_NE(hash_of(std::string(1 << 20, 'a')), hash_of(std::string((1 << 20) + 1, 'a')));
}

TEST(TensorrtHash, EveryFieldOfAKeyCounts) {
  std::vector<EngineKey> keys(8, key_of("model.onnx"));
  keys[1].model_hash = hash_of("other");
  keys[2].options += " level=5";
  keys[3].device = "NVIDIA H100 (9.0)";
  keys[4].builder = "TensorRT 10.7.0";
  keys[5].plugin_hashes = {"a"};
  keys[6].plugin_hashes = {"a", "b"};
  keys[7].plugin_hashes = {"b", "a"};
  std::set<std::string> names;
  for (const EngineKey& key : keys) names.insert(key.file_name());
  EXPECT_EQ(names.size(), keys.size());
  EXPECT_EQ(key_of("model.onnx").file_name(), keys[0].file_name());
}

TEST(TensorrtHash, FilesAreNamedForPeopleToo) {
  const auto name = [](const char* model) {
    const std::string file = key_of(model).file_name();
    EXPECT_THAT(file, MatchesRegex("[-_A-Za-z0-9]+-[0-9a-f]+"));
    return file.substr(0, file.size() - 33);
  };
  EXPECT_EQ(name("/a/b.c/resnet50.onnx"), "resnet50");
  EXPECT_EQ(name("yolo-v4_tiny.2.onnx"), "yolo-v4_tiny");
  EXPECT_EQ(name("my model\n\xff*.onnx"), "my_model___");
  EXPECT_EQ(name(""), "model");
  EXPECT_EQ(name("a/.onnx"), "model");
  EXPECT_EQ(name(std::string(500, 'x').c_str()), std::string(64, 'x'));
}

// A length-delimited protobuf field.
std::string field(int number, const std::string& bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

TEST_F(TensorrtCache, WeightsInFilesBesideTheModelCountToo) {
  const auto tensor_in = [](const std::string& file) {
    return field(5, field(13, field(1, "location") + field(2, file)));
  };
  const std::string model = field(7, tensor_in("a.bin") + tensor_in("b.bin"));
  const std::string path = (folder_ / "model.onnx").string();
  put("a.bin", "weights");
  MILLRACE_EXPECT_ERROR(hash_of_model(model, path), ErrorCode::not_found,
                        "the weights of \"" + path + "\": cannot read \"" +
                            (folder_ / "b.bin").string() + "\": No such file");
  put("b.bin", "others");
  put("c.bin", "of nobody");
  std::set<std::string> hashes;
  const auto hash = [&] { return *hash_of_model(model, path); };
  hashes.insert(hash());
  hashes.insert(hash());
  EXPECT_EQ(hashes.size(), 1u);
  put("c.bin", "changed");
  hashes.insert(hash());
  EXPECT_EQ(hashes.size(), 1u);
  put("b.bin", "otherz");
  hashes.insert(hash());
  put("a.bin", std::string((3 << 20) + 7, 'a'));
  hashes.insert(hash());
  put("a.bin", std::string((3 << 20) + 8, 'a'));
  hashes.insert(hash());
  EXPECT_EQ(hashes.size(), 4u);
  EXPECT_EQ(*hash_of_model("no files", path), hash_of("no files"));
}

TEST_F(TensorrtCache, WhatWasStoredIsFound) {
  const EngineKey key = key_of("/models/resnet50.onnx"), other = key_of("other.onnx", "other");
  std::string plan = "a plan";
  plan += '\0';
  plan += "of bytes";
  EXPECT_EQ(cache().find(key), std::nullopt);
  EXPECT_FALSE(fs::exists(folder_)) << "made only when something is stored";
  ASSERT_TRUE(cache().store(key, plan).ok());
  EXPECT_EQ(cache().find(key), plan);
  EXPECT_EQ(cache().find(other), std::nullopt);
  EXPECT_EQ(cache().plan_file(key), (folder_ / (key.file_name() + ".plan")).string());
  EXPECT_THAT(files(), ElementsAre(key.file_name() + ".json", key.file_name() + ".plan"));

  ASSERT_TRUE(cache().store(key, "a newer one").ok());
  EXPECT_EQ(cache().find(key), "a newer one");
  ASSERT_TRUE(cache().store(other, "another").ok());
  cache().remove(key);
  cache().remove(key);
  EXPECT_EQ(cache().find(key), std::nullopt);
  EXPECT_EQ(cache().find(other), "another");
  EXPECT_THAT(files(), ElementsAre(other.file_name() + ".json", other.file_name() + ".plan"));
}

TEST_F(TensorrtCache, IsListedByFileWithWhatEachEngineIs) {
  const EngineKey a = key_of("/models/a.onnx"), b = key_of("b.onnx", "b");
  ASSERT_TRUE(cache().store(b, "12345").ok());
  ASSERT_TRUE(cache().store(a, "123").ok());
  put("notes.txt", "not an engine");
  fs::create_directories(folder_ / "folder.plan");
  const auto engines = cache().list();
  ASSERT_TRUE(engines.ok()) << text_of(engines);
  ASSERT_EQ(engines->size(), 2u);
  EXPECT_EQ((*engines)[0].file, cache().plan_file(a));
  EXPECT_EQ((*engines)[0].bytes, 3u);
  EXPECT_EQ((*engines)[0].model, "/models/a.onnx");
  EXPECT_EQ((*engines)[0].device, a.device);
  EXPECT_EQ((*engines)[0].builder, a.builder);
  EXPECT_EQ((*engines)[0].options, a.options);
  EXPECT_EQ((*engines)[1].file, cache().plan_file(b));
  EXPECT_EQ((*engines)[1].bytes, 5u);
}

TEST_F(TensorrtCache, IsListedInOrder) {
  std::vector<std::string> names;
  for (int i = 9; i >= 0; --i) put(std::to_string(i * 7919 % 10) + ".plan", "");
  const auto engines = cache().list();
  ASSERT_TRUE(engines.ok()) << text_of(engines);
  for (const CachedEngine& engine : *engines) {
    names.push_back(fs::path(engine.file).stem().string());
  }
  EXPECT_THAT(names, ElementsAre("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"));
}

TEST_F(TensorrtCache, DescriptionsThatAreDamagedOrMissingAreLeftEmpty) {
  const std::string deep(100000, '[');
  const std::string_view texts[] = {"",
                                    "{\"model\": ",
                                    "[1, 2]",
                                    "null",
                                    deep,
                                    R"({"model": 7, "device": null, "builder": [], "options": {}})",
                                    "{\"model\": \"\xff\xfe\"}"};
  for (std::size_t i = 0; i < std::size(texts); ++i) {
    put("engine" + std::to_string(i) + ".plan", "plan");
    put("engine" + std::to_string(i) + ".json", texts[i]);
  }
  put("none.plan", "plan");
  const auto engines = cache().list();
  ASSERT_TRUE(engines.ok()) << text_of(engines);
  ASSERT_EQ(engines->size(), std::size(texts) + 1);
  for (const CachedEngine& engine : *engines) {
    EXPECT_EQ(engine.bytes, 4u);
    EXPECT_EQ(engine.model + engine.device + engine.builder + engine.options, "") << engine.file;
  }
  EXPECT_EQ(*cache().clear(), static_cast<int>(std::size(texts)) + 1);
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(TensorrtCache, NamesThatAreNotTextAreStoredAllTheSame) {
  const EngineKey key = key_of("caf\xe9.onnx");
  const Result<void> stored = cache().store(key, "plan");
  ASSERT_TRUE(stored.ok()) << text_of(stored);
  EXPECT_EQ(cache().find(key), "plan");
  EXPECT_EQ(cache().list()->front().model, "caf\xef\xbf\xbd.onnx");
}

TEST_F(TensorrtCache, IsClearedOfEnginesOnly) {
  EXPECT_EQ(*cache().clear(), 0) << "there is no folder";
  const EngineKey a = key_of("a.onnx"), b = key_of("b.onnx");
  ASSERT_TRUE(cache().store(a, "plan").ok());
  ASSERT_TRUE(cache().store(b, "plan").ok());
  { const EngineCache::Lock lock = cache().lock(a); }
  put("notes.txt", "mine");
  EXPECT_EQ(*cache().clear(), 2);
  EXPECT_THAT(files(), ElementsAre("notes.txt"));
  EXPECT_EQ(*cache().clear(), 0);
}

TEST_F(TensorrtCache, WithoutAFolderNothingIsKept) {
  const EngineCache none("");
  const EngineKey key = key_of("a.onnx");
  EXPECT_TRUE(none.store(key, "plan").ok());
  EXPECT_EQ(none.find(key), std::nullopt);
  EXPECT_EQ(none.plan_file(key), "");
  EXPECT_THAT(*none.list(), IsEmpty());
  EXPECT_EQ(*none.clear(), 0);
  none.remove(key);
  { const EngineCache::Lock first = none.lock(key), second = none.lock(key); }
}

TEST_F(TensorrtCache, AFolderThatCannotBeMadeIsNamed) {
  put("file", "in the way");
  const std::string file = (folder_ / "file").string();
  for (const std::string& folder : {file, file + "/below", std::string("/proc/engines")}) {
    SCOPED_TRACE(folder);
    const EngineCache cache(folder);
    const EngineKey key = key_of("a.onnx");
    MILLRACE_EXPECT_ERROR(cache.store(key, "plan"), ErrorCode::unavailable,
                          "the engine cache \"" + folder + "\" cannot be made: ");
    EXPECT_EQ(cache.find(key), std::nullopt);
    { const EngineCache::Lock first = cache.lock(key), second = cache.lock(key); }
    cache.remove(key);
  }
  MILLRACE_EXPECT_ERROR(EngineCache(file).list(), ErrorCode::unavailable,
                        "the engine cache \"" + file + "\" cannot be read: Not a directory");
  MILLRACE_EXPECT_ERROR(EngineCache(file).clear(), ErrorCode::unavailable, "cannot be read");
  EXPECT_EQ(*read_file(file), "in the way");
}

TEST_F(TensorrtCache, AFullDiskLeavesTheCacheAsItWas) {
  const EngineKey key = key_of("a.onnx"), kept = key_of("b.onnx");
  ASSERT_TRUE(cache().store(kept, "plan").ok());
  fs::create_symlink("/dev/full", cache().plan_file(key));
  MILLRACE_EXPECT_ERROR(cache().store(key, "plan"), ErrorCode::unavailable,
                        cache().plan_file(key) + "\": No space left on device");
  fs::remove(cache().plan_file(key));
  EXPECT_THAT(files(), ElementsAre(kept.file_name() + ".json", kept.file_name() + ".plan"));
  EXPECT_EQ(cache().find(kept), "plan");
}

// What a full disk does: small files still fit, a large one is cut short.
TEST_F(TensorrtCache, ADiskThatGetsFullWhileWritingLeavesNothingBehind) {
  const EngineKey key = key_of("a.onnx"), kept = key_of("b.onnx");
  ASSERT_TRUE(cache().store(kept, "plan").ok());
  ASSERT_TRUE(cache().store(key, "old").ok());
  cache().remove(key);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const Result<void> stored = cache().store(key, std::string(1000000, 'p'));
  const Result<void> again = cache().store(kept, std::string(1000000, 'p'));
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, handler);
  MILLRACE_EXPECT_ERROR(stored, ErrorCode::unavailable,
                        "cannot write \"" + cache().plan_file(key) + "\": File too large");
  EXPECT_FALSE(again.ok());
  EXPECT_THAT(files(), ElementsAre(kept.file_name() + ".json", kept.file_name() + ".plan"));
  EXPECT_EQ(cache().find(kept), "plan");
}

// Runs in a process of its own and ends it.
pid_t in_child(const std::function<int()>& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  return child;
}

TEST_F(TensorrtCache, WhoWantsWhatAnotherProcessBuildsWaitsAndFindsIt) {
  const EngineKey key = key_of("a.onnx");
  int locked[2], go[2];
  ASSERT_EQ(pipe(locked), 0);
  ASSERT_EQ(pipe(go), 0);
  char byte = 0;
  const pid_t child = in_child([&] {
    const EngineCache::Lock lock = cache().lock(key);
    if (write(locked[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1) return 1;
    std::this_thread::sleep_for(std::chrono::milliseconds(30));  // building
    return cache().store(key, "built").ok() ? 0 : 2;
  });
  ASSERT_GT(child, 0);
  ASSERT_EQ(read(locked[0], &byte, 1), 1);
  { const EngineCache::Lock other = cache().lock(key_of("b.onnx")); }  // does not wait
  EXPECT_EQ(cache().find(key), std::nullopt);
  ASSERT_EQ(write(go[1], &byte, 1), 1);
  const EngineCache::Lock lock = cache().lock(key);
  EXPECT_EQ(cache().find(key), "built");
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (const int end : {locked[0], locked[1], go[0], go[1]}) close(end);
}

TEST_F(TensorrtCache, TheLockOfAProcessThatDiedIsFree) {
  const EngineKey key = key_of("a.onnx");
  const pid_t child = in_child([&] {
    EngineCache::Lock lock = cache().lock(key);
    abort();
    return 0;
  });
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  const EngineCache::Lock lock = cache().lock(key);
  EXPECT_TRUE(fs::exists(folder_ / (key.file_name() + ".lock")));
}

}  // namespace
}  // namespace millrace::tensorrt
