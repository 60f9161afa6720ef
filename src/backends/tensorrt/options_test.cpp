#include "backends/tensorrt/options.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <optional>

#include "backends/tensorrt/builder.h"
#include "backends/test_harness.h"

namespace millrace::tensorrt {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::text_of;

Options parsed(const std::map<std::string, std::string>& options) {
  Result<Options> result = parse_options(options);
  EXPECT_TRUE(result.ok()) << text_of(result);
  return result.ok() ? *std::move(result) : Options();
}

/// Sets variables of the environment (null: unsets), and puts them back.
class Environment {
 public:
  Environment(std::initializer_list<std::pair<const char*, const char*>> variables) {
    for (const auto& [name, value] : variables) {
      const char* before = std::getenv(name);
      before_.emplace_back(name, before ? std::optional<std::string>(before) : std::nullopt);
      set(name, value);
    }
  }
  ~Environment() {
    for (const auto& [name, value] : before_) set(name, value ? value->c_str() : nullptr);
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  static void set(const char* name, const char* value) {
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  std::vector<std::pair<const char*, std::optional<std::string>>> before_;
};

TEST(TensorrtOptions, HaveDefaults) {
  const Environment environment({{"MILLRACE_CACHE", "/folder"}});
  const Options options = parsed({});
  EXPECT_EQ(options.build.precision, Precision::automatic);
  EXPECT_EQ(options.build.min_batch, 1);
  EXPECT_EQ(options.build.opt_batch, 0);
  EXPECT_EQ(options.build.max_batch, 32);
  EXPECT_EQ(options.build.optimization_level, 3);
  EXPECT_EQ(options.build.workspace_bytes, 0u);
  EXPECT_EQ(options.build.aux_streams, 0);
  EXPECT_EQ(options.build.timing_cache, "");
  EXPECT_EQ(options.graphs, Graphs::automatic);
  EXPECT_FALSE(options.share_activations);
  EXPECT_FALSE(options.host_code);
  EXPECT_EQ(options.cache, "/folder");
  EXPECT_THAT(options.build.plugins, IsEmpty());
}

TEST(TensorrtOptions, AreReadByName) {
  const Options options = parsed({{"precision", "bf16"},
                                  {"calibration_cache", "ranges.cache"},
                                  {"batch", "2..8..64"},
                                  {"optimization_level", "5"},
                                  {"workspace_mib", "512"},
                                  {"aux_streams", "2"},
                                  {"timing_cache", "timing.bin"},
                                  {"graphs", "off"},
                                  {"host_code", "on"},
                                  {"cache", "/elsewhere"},
                                  {"share_activations", "on"}});
  EXPECT_EQ(options.build.precision, Precision::bf16);
  EXPECT_EQ(options.build.calibration_cache, "ranges.cache");
  EXPECT_EQ(options.build.min_batch, 2);
  EXPECT_EQ(options.build.opt_batch, 8);
  EXPECT_EQ(options.build.max_batch, 64);
  EXPECT_EQ(options.build.optimization_level, 5);
  EXPECT_EQ(options.build.workspace_bytes, std::size_t{512} << 20);
  EXPECT_EQ(options.build.aux_streams, 2);
  EXPECT_EQ(options.build.timing_cache, "timing.bin");
  EXPECT_EQ(options.graphs, Graphs::off);
  EXPECT_TRUE(options.share_activations);
  EXPECT_TRUE(options.host_code);
  EXPECT_EQ(options.cache, "/elsewhere");
}

TEST(TensorrtOptions, BatchesAreARange) {
  const auto batch = [](const char* text) {
    const BuildOptions build = parsed({{"batch", text}}).build;
    return std::vector{build.min_batch, build.opt_batch, build.max_batch};
  };
  EXPECT_THAT(batch("16"), ElementsAre(1, 0, 16));
  EXPECT_THAT(batch("4..16"), ElementsAre(4, 0, 16));
  EXPECT_THAT(batch("1..4..16"), ElementsAre(1, 4, 16));
  EXPECT_THAT(batch("8..8..8"), ElementsAre(8, 8, 8));
  EXPECT_THAT(batch("1048576"), ElementsAre(1, 0, 1048576));
}

TEST(TensorrtOptions, EveryPrecisionSwitchAndListIsRead) {
  for (const Precision precision :
       {Precision::automatic, Precision::fp32, Precision::tf32, Precision::fp16, Precision::bf16,
        Precision::int8, Precision::fp8, Precision::typed}) {
    EXPECT_EQ(parsed({{"precision", std::string(to_string(precision))}}).build.precision,
              precision);
  }
  EXPECT_EQ(parsed({{"graphs", "auto"}}).graphs, Graphs::automatic);
  EXPECT_EQ(parsed({{"graphs", "on"}}).graphs, Graphs::on);
  EXPECT_EQ(parsed({{"graphs", "1"}}).graphs, Graphs::on);
  EXPECT_EQ(parsed({{"graphs", "0"}}).graphs, Graphs::off);
  EXPECT_FALSE(parsed({{"share_activations", "off"}}).share_activations);
  EXPECT_EQ(parsed({{"cache", "off"}}).cache, "");
  EXPECT_TRUE(parsed({{"batch_axis", "auto"}}).batch_axis);
  EXPECT_FALSE(parsed({{"batch_axis", "off"}}).batch_axis);
  EXPECT_EQ(parsed({{"optimization_level", "0"}}).build.optimization_level, 0);
}

TEST(TensorrtOptions, BadValuesAreRefusedByName) {
  struct Row {
    const char *name, *value, *message;
  };
  const char* const batch = "option \"batch\": expected a whole number from 1 to 1048576, got ";
  const char* const range =
      "option \"batch\": expected MAX, MIN..MAX or MIN..BEST..MAX in ascending order, got ";
  for (const Row& row : {
           Row{"precision", "fp4",
               "precision: expected one of auto, fp32, tf32, fp16, bf16, int8, fp8, typed, got "
               "\"fp4\""},
           Row{"batch", "", batch},
           Row{"batch", "0", batch},
           Row{"batch", "-1", batch},
           Row{"batch", "1048577", batch},
           Row{"batch", "1..", batch},
           Row{"batch", "..4", batch},
           Row{"batch", "1...4", batch},
           Row{"batch", "many", batch},
           Row{"batch", "8..4", range},
           Row{"batch", "1..8..4", range},
           Row{"batch", "1..2..3..4", range},
           Row{"optimization_level", "6",
               "option \"optimization_level\": expected a whole number from 0 to 5, got \"6\""},
           Row{"optimization_level", "-1", "from 0 to 5"},
           Row{"workspace_mib", "0",
               "option \"workspace_mib\": expected a whole number from 1 to 16777216, got \"0\""},
           Row{"workspace_mib", "1GiB", "from 1 to 16777216"},
           Row{"aux_streams", "17",
               "option \"aux_streams\": expected a whole number from 0 to 16, got \"17\""},
           Row{"batch_axis", "1", "option \"batch_axis\": expected auto or off, got \"1\""},
           Row{"graphs", "maybe", "option \"graphs\": expected auto, on or off, got \"maybe\""},
           Row{"share_activations", "maybe",
               "option \"share_activations\": expected on or off, got \"maybe\""},
           Row{"plugins", "a.so", "the tensorrt backend has no option \"plugins\""},
           Row{"workspace", "1",
               "the tensorrt backend has no option \"workspace\"; it has precision, "
               "calibration_cache, batch, batch_axis, optimization_level, workspace_mib, "
               "aux_streams, timing_cache, graphs, share_activations, host_code, cache"},
       }) {
    SCOPED_TRACE(std::string(row.name) + "=" + row.value);
    MILLRACE_EXPECT_ERROR(parse_options({{row.name, row.value}}), ErrorCode::invalid_argument,
                          row.message);
  }
}

TEST(TensorrtOptions, WhatIsNotSupportedIsRefusedByName) {
  MILLRACE_EXPECT_ERROR(parse_options({{"refit", "on"}}), ErrorCode::unsupported,
                        "option \"refit\": Millrace does not support refitting");
  MILLRACE_EXPECT_ERROR(parse_options({{"weight_streaming", "1GiB"}}), ErrorCode::unsupported,
                        "option \"weight_streaming\": Millrace does not support streaming weights");
}

TEST(TensorrtOptions, TheCacheIsWhereTheUserKeepsCaches) {
  {
    const Environment all({{"MILLRACE_CACHE", "/a"}, {"XDG_CACHE_HOME", "/b"}, {"HOME", "/c"}});
    EXPECT_EQ(default_cache_folder(), "/a");
    EXPECT_EQ(engine_cache_folder(), "/a");
  }
  {
    const Environment xdg({{"MILLRACE_CACHE", ""}, {"XDG_CACHE_HOME", "/b"}, {"HOME", "/c"}});
    EXPECT_EQ(default_cache_folder(), "/b/millrace/engines");
  }
  {
    const Environment home({{"MILLRACE_CACHE", nullptr}, {"XDG_CACHE_HOME", ""}, {"HOME", "/c"}});
    EXPECT_EQ(default_cache_folder(), "/c/.cache/millrace/engines");
  }
  const Environment none(
      {{"MILLRACE_CACHE", nullptr}, {"XDG_CACHE_HOME", nullptr}, {"HOME", nullptr}});
  EXPECT_EQ(default_cache_folder(), "");
  EXPECT_EQ(parsed({}).cache, "");
}

TEST(TensorrtOptions, AutomaticPrecisionFollowsTheModel) {
  // A graph with one node, and metadata, as length-delimited protobuf fields.
  const auto field = [](int number, const std::string& bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
  };
  const auto graph = [&](const char* op) { return field(7, field(1, field(4, op))); };
  const std::string variant =
      graph("Conv") + field(14, field(1, "millrace_variant") + field(2, "bf16"));
  EXPECT_EQ(resolved_precision(Precision::automatic, graph("Conv")), Precision::tf32);
  EXPECT_EQ(resolved_precision(Precision::automatic, graph("QuantizeLinear")), Precision::typed);
  EXPECT_EQ(resolved_precision(Precision::automatic, variant), Precision::typed);
  EXPECT_EQ(resolved_precision(Precision::automatic, "no model"), Precision::tf32);
  EXPECT_EQ(resolved_precision(Precision::fp16, variant), Precision::fp16);
}

TEST(TensorrtOptions, WhatMakesAnotherEngineIsDescribed) {
  std::vector<std::string> texts = {describe({})};
  const auto with = [&texts](auto set) {
    BuildOptions options;
    set(options);
    texts.push_back(describe(options));
  };
  with([](BuildOptions& o) { o.precision = Precision::fp16; });
  with([](BuildOptions& o) { o.min_batch = 2; });
  with([](BuildOptions& o) { o.opt_batch = 8; });
  with([](BuildOptions& o) { o.max_batch = 64; });
  with([](BuildOptions& o) { o.optimization_level = 4; });
  with([](BuildOptions& o) { o.workspace_bytes = 1 << 20; });
  with([](BuildOptions& o) { o.aux_streams = 1; });
  with([](BuildOptions& o) { o.version_compatible = true; });
  with([](BuildOptions& o) { o.hardware_compatible = true; });
  const ShapeRange range = {{1, 3}, {2, 3}, {4, 3}}, other = {{1, 3}, {3, 3}, {4, 3}};
  with([&](BuildOptions& o) { o.shapes["x"] = {range}; });
  with([&](BuildOptions& o) { o.shapes["x"] = {other}; });
  with([&](BuildOptions& o) { o.shapes["y"] = {range}; });
  with([&](BuildOptions& o) { o.shapes["x"] = {range, range}; });
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) EXPECT_NE(texts[i], texts[k]) << i << " and " << k;
  }
  EXPECT_EQ(texts[0], "precision=auto batch=1..32..32 level=3 workspace=0 aux=0");
  BuildOptions same;  // what the engine does not depend on, or what is hashed apart
  same.opt_batch = 32;
  same.model = "model.onnx";
  same.timing_cache = "timing.bin";
  same.device = DeviceId::cuda(1);
  EXPECT_EQ(describe(same), texts[0]);
}

}  // namespace
}  // namespace millrace::tensorrt
