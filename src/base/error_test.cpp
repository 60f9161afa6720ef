#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <millrace/error.h>

#include "base/try.h"

namespace millrace {
namespace {

struct Animal {
  virtual ~Animal() = default;
  virtual int legs() const { return 0; }
};
struct Dog final : Animal {
  int legs() const override { return 4; }
};

Error full() {
  return {ErrorCode::queue_full, "expected room for 1 request, got none", Scope::model};
}

TEST(Error, CodesAndScopesHaveDistinctNames) {
  EXPECT_EQ(to_string(ErrorCode::invalid_argument), "invalid_argument");
  EXPECT_EQ(to_string(ErrorCode::internal), "internal");
  EXPECT_EQ(to_string(Scope::model), "model");
  std::vector<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::internal); ++code) {
    const std::string_view name = to_string(static_cast<ErrorCode>(code));
    EXPECT_NE(name, "unknown");
    for (const std::string_view other : names) EXPECT_NE(name, other);
    names.push_back(name);
  }
}

TEST(Result, HoldsAValueOrAnError) {
  Result<std::string> good = std::string("yes");
  ASSERT_TRUE(good.ok());
  EXPECT_TRUE(static_cast<bool>(good));
  EXPECT_EQ(*good, "yes");
  EXPECT_EQ(good->size(), 3u);

  Result<std::string> bad = full();
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, ErrorCode::queue_full);
  EXPECT_EQ(bad.error().scope, Scope::model);

  Result<void> nothing;
  EXPECT_TRUE(nothing.ok());
  nothing = full();
  EXPECT_FALSE(nothing.ok());
}

TEST(Result, MovesWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  const std::unique_ptr<int> owned = std::move(result).value();
  EXPECT_EQ(*owned, 7);
}

TEST(Result, TakesWhatConvertsToItsClass) {
  const auto make = []() -> Result<std::unique_ptr<Animal>> { return std::make_unique<Dog>(); };
  EXPECT_EQ(make().value()->legs(), 4);
  const auto text = []() -> Result<std::string> { return "a literal"; };
  EXPECT_EQ(text().value(), "a literal");
  static_assert(!std::is_constructible_v<Result<std::string>, std::vector<int>>);
}

Result<int> half(int n) {
  if (n % 2 != 0) return Error{ErrorCode::invalid_argument, "odd"};
  return n / 2;
}

Result<std::string> quarter(int n) {
  MILLRACE_ASSIGN(const int a, half(n));
  MILLRACE_ASSIGN(const int b, half(a));
  return std::to_string(b);
}

Result<void> all_even(std::initializer_list<int> numbers, int& seen) {
  for (const int n : numbers) {
    MILLRACE_TRY(half(n));
    ++seen;
  }
  return {};
}

TEST(Try, PassesErrorsUpAndValuesOn) {
  EXPECT_EQ(quarter(12).value(), "3");
  EXPECT_EQ(quarter(6).error().message, "odd");
  int seen = 0;
  EXPECT_TRUE(all_even({2, 4}, seen).ok());
  EXPECT_EQ(seen, 2);
  EXPECT_FALSE(all_even({2, 3, 4}, seen).ok());
  EXPECT_EQ(seen, 3);
}

}  // namespace
}  // namespace millrace
