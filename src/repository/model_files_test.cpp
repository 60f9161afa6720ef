#include "repository/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "repository/test_folder.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestFolder;

std::vector<std::string> names(const std::vector<ModelPlace>& places) {
  std::vector<std::string> out;
  out.reserve(places.size());
  for (const ModelPlace& place : places) out.push_back(place.name);
  return out;
}

TEST(FindModels, FindsFoldersAndFiles) {
  const TestFolder folder;
  folder.write("b/1/model.onnx", "");
  folder.write("a/config.pbtxt", "");
  folder.write("c.onnx", "");
  folder.write("d.reference.json", "{}");
  folder.write("own/millrace.json", "{}");
  folder.write(".hidden/1/model.onnx", "");
  folder.write("readme.md", "");
  const auto found = find_models(folder.path());
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(names(*found), ElementsAre("a", "b", "c", "d", "own"));
  EXPECT_TRUE((*found)[1].versions);
  EXPECT_FALSE((*found)[2].versions);
  EXPECT_FALSE((*found)[4].versions);
}

TEST(FindModels, AModelStandsForItself) {
  const TestFolder folder;
  folder.write("a/1/model.onnx", "");
  folder.write("b/config.pbtxt", "");
  folder.write("c/millrace.json", "{}");
  EXPECT_THAT(names(*find_models(folder.path("a"))), ElementsAre("a"));
  EXPECT_THAT(names(*find_models(folder.path("a/"))), ElementsAre("a"));
  EXPECT_THAT(names(*find_models(folder.path("b"))), ElementsAre("b"));
  EXPECT_THAT(names(*find_models(folder.path("c"))), ElementsAre("c"));
  EXPECT_THAT(names(*find_models(folder.path("a/1/model.onnx"))), ElementsAre("model"));
  EXPECT_EQ(find_models(folder.path("none")).error().code, ErrorCode::not_found);
}

TEST(FindModels, NamesMustBeUnique) {
  const TestFolder folder;
  folder.write("a/1/model.onnx", "");
  folder.write("a.onnx", "");
  EXPECT_THAT(find_models(folder.path()).error().message, HasSubstr("two models are called \"a\""));
}

TEST(ModelFiles, VersionsAreWholeNumbersAboveZero) {
  const TestFolder folder;
  for (const char* name : {"1", "3", "20", "0", "02", "-4", "5x", "99999999999999999999"}) {
    folder.write(std::string("a/") + name + "/model.onnx", "");
  }
  fs::create_directories(folder.path("a/7"));
  folder.write("a/8", "a file");
  const auto files = ModelFiles::of_folder(folder.path("a"));
  ASSERT_TRUE(files.ok());
  EXPECT_THAT(files->versions(), ElementsAre(1, 3, 7, 20));
  EXPECT_TRUE(files->has("20/model.onnx"));
  EXPECT_THAT(files->names("3"), ElementsAre("model.onnx"));
}

TEST(ModelFiles, PrintsChangeWithTheFilesOfAVersionOrOfAll) {
  const TestFolder folder;
  folder.write("a/1/model.onnx", "one");
  folder.write("a/2/model.onnx", "two");
  folder.write("a/labels.txt", "x");
  const auto prints = [&] {
    const ModelFiles files = *ModelFiles::of_folder(folder.path("a"));
    return std::array{files.fingerprint(1), files.fingerprint(2), files.fingerprint()};
  };
  const auto before = prints();
  EXPECT_EQ(prints(), before);
  folder.write("a/2/more", "");
  const auto second = prints();
  EXPECT_EQ(second[0], before[0]);
  EXPECT_NE(second[1], before[1]);
  EXPECT_NE(second[2], before[2]);
  folder.write("a/labels.txt", "y");  // of the same size, but not the same file
  const auto third = prints();
  EXPECT_NE(third[0], second[0]);
  EXPECT_NE(third[1], second[1]);
}

TEST(ModelFiles, LinksThatLeadNowhereOrInCirclesAreNoTrouble) {
  const TestFolder folder;
  folder.write("a/1/model.onnx", "");
  fs::create_symlink("nowhere", folder.path("a/1/gone"));
  fs::create_directory_symlink("..", folder.path("a/1/up"));
  fs::create_directory_symlink("1", folder.path("a/2"));
  const auto files = ModelFiles::of_folder(folder.path("a"));
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_THAT(files->versions(), ElementsAre(1, 2));
  EXPECT_TRUE(files->has("2/model.onnx"));
}

TEST(ModelFiles, WhatWasSentStaysWithinTheModel) {
  for (const char* path :
       {"", "/1/model.onnx", "../model.onnx", "1/../../x", "./1/model.onnx", "1//x", "a/.."}) {
    const auto files = ModelFiles::of_contents({{path, ""}});
    EXPECT_FALSE(files.ok()) << path;
  }
  const auto files = ModelFiles::of_contents({{"4/model.onnx", "content"}, {"labels.txt", "x"}});
  ASSERT_TRUE(files.ok());
  EXPECT_THAT(files->versions(), ElementsAre(4));
  EXPECT_EQ(*files->content("4/model.onnx"), "content");
  EXPECT_EQ(*files->read("labels.txt", 10), "x");
  EXPECT_FALSE(files->read("labels.txt", 0).ok());
  EXPECT_EQ(files->read("none", 10).error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace millrace
