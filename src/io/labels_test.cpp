#include "io/labels.h"

#include <gtest/gtest.h>

namespace millrace {
namespace {

using Labels = std::vector<std::string>;

std::string refusal(std::string_view text) {
  const Result<Labels> labels = parse_labels(text, "labels.txt");
  return labels.ok() ? "accepted" : labels.error().message;
}

TEST(Labels, OneALine) {
  EXPECT_EQ(*parse_labels("cat\ndog\n", "x"), (Labels{"cat", "dog"}));
  EXPECT_EQ(*parse_labels("tabby cat\r\ndog\r\n\r\n", "x"), (Labels{"tabby cat", "dog"}));
  EXPECT_EQ(*parse_labels("one", "x"), (Labels{"one"}));
}

TEST(Labels, RefusesHolesWhichWouldShiftTheRest) {
  EXPECT_EQ(refusal("cat\n\ndog\n"), "labels.txt:2: expected a label, got an empty line");
  EXPECT_EQ(refusal("\ncat\n"), "labels.txt:1: expected a label, got an empty line");
  EXPECT_EQ(refusal(" \n\n"), "labels.txt: expected one label a line, got none");
}

TEST(Labels, ReadsThoseOfTheDigits) {
  const Result<Labels> labels = read_labels(MILLRACE_SOURCE_DIR "/examples/digits/labels.txt");
  ASSERT_TRUE(labels.ok()) << labels.error().message;
  EXPECT_EQ(labels->size(), 10U);
  EXPECT_EQ(labels->front(), "0");
  EXPECT_EQ(read_labels("/nonexistent/labels.txt").error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace millrace
