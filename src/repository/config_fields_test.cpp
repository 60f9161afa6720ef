#include "repository/config_fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/file.h"
#include "repository/config_mapping.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;

const std::string kFolder = MILLRACE_SOURCE_DIR "/tests/configs/fields/";
constexpr DeviceId kDevices[] = {DeviceId::cuda(0), DeviceId::cuda(1), DeviceId::host(0)};

std::string read(const std::string& path) {
  const Result<std::string> text = read_file(path);
  EXPECT_TRUE(text.ok()) << path;
  return text.ok() ? *text : "";
}

/// What a mapping says, as "key=value".
std::vector<std::string> summary(const ConfigText& text, const ConfigMapping& mapping) {
  const ModelConfig& engine = mapping.engine;
  std::vector<std::string> out = {
      concat("name=", text.config().name()),
      concat("backend=", engine.backend),
      concat("file=", mapping.model_file),
      concat("max_items=", engine.batching.max_items),
      concat("preferred=", join(engine.batching.preferred_items, ",")),
      concat("max_delay=", format_duration(engine.batching.max_delay)),
      concat("preserve_order=", engine.batching.preserve_order),
      concat("levels=", mapping.requests.priority_levels),
      concat("default_level=", mapping.requests.default_level),
      concat("timeout=", format_duration(mapping.requests.by_default.timeout)),
      concat("may_be_overridden=", mapping.requests.by_default.may_be_overridden),
      concat("max_requests=", engine.limits.max_requests),
      concat("devices=", join(engine.devices, ",")),
      concat("lanes=", engine.lanes),
      concat("slots=", engine.slots),
      concat("warmups=", mapping.warm_ups.size())};
  for (const auto& input : text.config().input()) out.push_back(concat("input=", input.name()));
  for (const auto& output : text.config().output()) out.push_back(concat("output=", output.name()));
  for (const auto& [level, policy] : mapping.requests.levels) {
    out.push_back(concat("timeout[", level, "]=", format_duration(policy.timeout)));
  }
  for (const std::string& plugin : engine.plugins) out.push_back(concat("plugin=", plugin));
  for (const EnsemblePart& part : mapping.parts) {
    out.push_back(concat("part=", part.model));
    out.push_back(concat("part_version=", part.version));
    for (const auto& [key, value] : part.step.inputs)
      out.push_back(concat("part_input=", key, ":", value));
    for (const auto& [key, value] : part.step.outputs) {
      out.push_back(concat("part_output=", key, ":", value));
    }
  }
  const Result<std::vector<std::int64_t>> versions = choose_versions(text, {1, 2, 3});
  if (versions) out.push_back(concat("versions=", join(*versions, ",")));
  return out;
}

/// The file of a field says in its first line what is expected of it where it is supported.
class Field : public ::testing::TestWithParam<ConfigField> {};

TEST_P(Field, DoesWhatTheTableSays) {
  const ConfigField& field = GetParam();
  const std::string path = concat(kFolder, field.path, ".pbtxt");
  const std::string content = read(path);
  const Result<ConfigText> text = ConfigText::parse(content, path);
  ASSERT_TRUE(text.ok()) << text.error().message;
  const ModelFiles files = *ModelFiles::of_contents({{"1/model.onnx", ""}});
  const Result<ConfigMapping> mapping = map_config(*text, files, kDevices);

  if (field.kind == FieldKind::refused) {
    ASSERT_FALSE(mapping.ok());
    EXPECT_EQ(mapping.error().code, ErrorCode::unsupported);
    EXPECT_THAT(mapping.error().message, HasSubstr(concat(path, ":")));
    EXPECT_THAT(mapping.error().message, HasSubstr(field.note));
    const std::string_view last = field.path.substr(field.path.rfind('.') + 1);
    EXPECT_THAT(mapping.error().message, HasSubstr(concat(last, ": not supported")));
    return;
  }
  ASSERT_TRUE(mapping.ok()) << mapping.error().message;
  const bool stated =
      std::any_of(mapping->fields.begin(), mapping->fields.end(),
                  [&](const StatedField& s) { return s.field->path == field.path; });
  EXPECT_TRUE(stated);
  if (field.kind == FieldKind::hint) {
    ASSERT_EQ(mapping->hints.size(), 1U);
    EXPECT_THAT(mapping->hints[0], HasSubstr(concat(path, ":")));
    EXPECT_THAT(mapping->hints[0], HasSubstr(field.note));
    return;
  }
  constexpr std::string_view kExpect = "# expect: ";
  ASSERT_TRUE(content.starts_with(kExpect));
  std::string expected = content.substr(kExpect.size(), content.find('\n') - kExpect.size());
  const std::size_t comma = expected.find(", not used");
  EXPECT_EQ(mapping->hints.size(), comma == std::string::npos ? 0U : 1U);
  EXPECT_THAT(summary(*text, *mapping), Contains(expected.substr(0, comma)));
}

INSTANTIATE_TEST_SUITE_P(All, Field,
                         ::testing::ValuesIn(config_fields().begin(), config_fields().end()),
                         [](const auto& instance) {
                           std::string name(instance.param.path);
                           std::replace(name.begin(), name.end(), '.', '_');
                           return name;
                         });

TEST(ConfigFields, EveryFileIsOfAField) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(kFolder)) {
    const std::string stem = entry.path().stem().string();
    EXPECT_TRUE(std::any_of(config_fields().begin(), config_fields().end(),
                            [&](const ConfigField& field) { return field.path == stem; }))
        << stem;
    ++count;
  }
  EXPECT_EQ(count, config_fields().size());
}

/// Every field of the schema is in the table: itself, or what it is in.
void check_covered(const google::protobuf::Descriptor& type, const std::string& prefix,
                   std::set<std::string>& seen) {
  for (int i = 0; i < type.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *type.field(i);
    const std::string path = prefix + field.name();
    const bool listed = std::any_of(config_fields().begin(), config_fields().end(),
                                    [&](const ConfigField& entry) { return entry.path == path; });
    if (listed) {
      EXPECT_TRUE(seen.insert(path).second) << path;
    } else if (field.message_type()) {
      check_covered(*field.message_type(), path + ".", seen);
    } else {
      // A message that is listed leaf by leaf may have leaves that nobody thought of.
      ADD_FAILURE() << "not in the table: " << path;
    }
  }
}

TEST(ConfigFields, TheTableCoversTheSchemaAndNothingElse) {
  std::set<std::string> seen;
  check_covered(*inference::ModelConfig::descriptor(), "", seen);
  EXPECT_EQ(seen.size(), config_fields().size());
}

TEST(ConfigFields, TheDocumentationHasTheSameTable) {
  const std::string page = read(MILLRACE_SOURCE_DIR "/docs/repository.md");
  std::size_t at = 0;
  for (const ConfigField& field : config_fields()) {
    const std::string row =
        concat("| `", field.path, "` | ", field.kind, " | ", field.note, " |\n");
    const std::size_t found = page.find(row, at);
    ASSERT_NE(found, std::string::npos) << "expected after the rows before it: " << row;
    at = found;
  }
}

}  // namespace
}  // namespace millrace
