#include <millrace/inline_vector.h>

#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

// Knows its own address, so that a copy of its bytes shows.
struct Anchored {
  Anchored() noexcept : Anchored(0) {}
  explicit Anchored(int n) noexcept : value(n), self(this) { ++alive; }
  Anchored(const Anchored& other) : value(other.value), self(this) { ++alive; }
  Anchored(Anchored&& other) noexcept : value(std::exchange(other.value, -1)), self(this) {
    ++alive;
  }
  Anchored& operator=(const Anchored&) = default;
  ~Anchored() {
    EXPECT_EQ(self, this);
    self = nullptr;
    --alive;
  }
  int value;
  Anchored* self;
  static inline int alive = 0;
};

template <class V>
std::vector<int> values(const V& vector) {
  std::vector<int> out;
  for (const auto& element : vector) {
    EXPECT_EQ(element.self, &element);
    out.push_back(element.value);
  }
  return out;
}

TEST(InlineVector, GrowsOutOfItsPlace) {
  {
    InlineVector<Anchored, 2> v;
    EXPECT_TRUE(v.empty());
    const void* const inside = v.data();
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(v.emplace_back(i).value, i);
      EXPECT_EQ(v.data() == inside, i < 2);
    }
    EXPECT_EQ(v.size(), 10u);
    EXPECT_EQ(values(v), (std::vector{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
    EXPECT_EQ(v.front().value, 0);
    EXPECT_EQ(v.back().value, 9);
    v.pop_back();
    EXPECT_EQ(Anchored::alive, 9);
    v.resize(3);
    EXPECT_EQ(values(v), (std::vector{0, 1, 2}));
    v.resize(5);
    EXPECT_EQ(values(v), (std::vector{0, 1, 2, 0, 0}));
    v.clear();
    EXPECT_EQ(Anchored::alive, 0);
    v.emplace_back(4);
  }
  EXPECT_EQ(Anchored::alive, 0);
}

TEST(InlineVector, AppendsItsOwnElements) {
  InlineVector<std::string, 1> v;
  const std::string text(100, 'a');
  v.emplace_back(text);
  for (int i = 0; i < 9; ++i) v.emplace_back(v[0]);  // grows several times
  for (int i = 0; i < 9; ++i) v.push_back(v.back());
  ASSERT_EQ(v.size(), 19u);
  for (const std::string& element : v) EXPECT_EQ(element, text);
}

TEST(InlineVector, MovesFromInsideAndOutside) {
  for (const int size : {0, 1, 2, 3, 9}) {
    for (const int other_size : {0, 2, 7}) {
      InlineVector<Anchored, 2> a;
      for (int i = 0; i < size; ++i) a.emplace_back(i);
      const std::vector<int> expected = values(a);
      InlineVector<Anchored, 2> b = std::move(a);
      EXPECT_EQ(values(b), expected);
      EXPECT_TRUE(a.empty());  // NOLINT
      InlineVector<Anchored, 2> c;
      for (int i = 0; i < other_size; ++i) c.emplace_back(100 + i);
      c = std::move(b);
      EXPECT_EQ(values(c), expected);
      EXPECT_TRUE(b.empty());  // NOLINT
      b.emplace_back(5);       // NOLINT: what was moved from can be used again
      b.emplace_back(6);
      b.emplace_back(7);
      EXPECT_EQ(values(b), (std::vector{5, 6, 7}));
      InlineVector<Anchored, 2>& alias = c;
      c = alias;
      EXPECT_EQ(values(c), expected);
      c = std::move(alias);
      EXPECT_EQ(values(c), expected);
    }
  }
  EXPECT_EQ(Anchored::alive, 0);
}

TEST(InlineVector, CopiesAreTheirOwn) {
  InlineVector<std::string, 2> a = {"one", "two", "three"};
  InlineVector<std::string, 2> b = a;
  b[0] = "changed";
  EXPECT_EQ(a[0], "one");
  EXPECT_EQ(b.size(), 3u);
  a = b;
  EXPECT_EQ(a[0], "changed");
}

TEST(InlineVector, HoldsWhatCanOnlyBeMoved) {
  using Owners = InlineVector<std::unique_ptr<int>, 2>;
  static_assert(!std::is_copy_constructible_v<Owners> && !std::is_copy_assignable_v<Owners>);
  static_assert(std::is_nothrow_move_constructible_v<Owners>);
  Owners v;
  for (int i = 0; i < 5; ++i) v.push_back(std::make_unique<int>(i));
  const Owners moved = std::move(v);
  ASSERT_EQ(moved.size(), 5u);
  EXPECT_EQ(*moved[4], 4);
}

struct ThrowsOnCopy {
  explicit ThrowsOnCopy(int* c) : alive(c), text(200, 't') { ++*alive; }
  ThrowsOnCopy(const ThrowsOnCopy& other) : alive(other.alive), text(other.text) {
    if (*alive == 4) throw std::runtime_error("no more");
    ++*alive;
  }
  ThrowsOnCopy(ThrowsOnCopy&& other) noexcept : alive(other.alive), text(std::move(other.text)) {
    ++*alive;
  }
  ~ThrowsOnCopy() { --*alive; }
  int* alive;
  std::string text;
};

TEST(InlineVector, ACopyThatThrowsLeavesNothingBehind) {
  int alive = 0;
  {
    InlineVector<ThrowsOnCopy, 2> v;
    for (int i = 0; i < 3; ++i) v.emplace_back(&alive);
    EXPECT_THROW((InlineVector<ThrowsOnCopy, 2>(v)), std::runtime_error);
    EXPECT_EQ(alive, 3);
  }
  EXPECT_EQ(alive, 0);
}

struct alignas(64) Wide {
  char byte = 0;
};

TEST(InlineVector, KeepsTheAlignment) {
  InlineVector<Wide, 1> v;
  for (int i = 0; i < 4; ++i) {
    v.emplace_back();
    for (const Wide& element : v) EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&element) % 64, 0u);
  }
}

TEST(InlineVector, BehavesAsStdVectorUnderRandomUse) {
  std::mt19937 random(6);
  InlineVector<std::string, 3> v;
  std::vector<std::string> model;
  for (int step = 0; step < 20000; ++step) {
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const std::string text(random() % 40, static_cast<char>('a' + random() % 26));
        v.push_back(text);
        model.push_back(text);
        break;
      }
      case 3:
        if (!model.empty()) {
          v.pop_back();
          model.pop_back();
        }
        break;
      case 4: {
        const std::size_t size = random() % 10;
        v.resize(size);
        model.resize(size);
        break;
      }
      case 5: {
        InlineVector<std::string, 3> other = std::move(v);
        v = std::move(other);
        break;
      }
      case 6:
        v = InlineVector<std::string, 3>(v);
        break;
      default:
        if (!model.empty() && model.size() < 20) {
          const std::size_t i = random() % model.size();
          v.emplace_back(v[i]);
          model.emplace_back(std::string(model[i]));
        }
    }
    ASSERT_EQ(std::vector<std::string>(v.begin(), v.end()), model);
  }
}

}  // namespace
}  // namespace millrace
