#include "base/intrusive_list.h"

#include <deque>
#include <list>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

struct Item {
  explicit Item(int n) : number(n) {}
  int number;
  ListHook<Item> by_age;
  ListHook<Item> by_name;
};
using ByAge = IntrusiveList<Item, &Item::by_age>;
using ByName = IntrusiveList<Item, &Item::by_name>;

std::vector<int> numbers(const ByAge& list) {
  std::vector<int> out;
  for (const Item& item : list) out.push_back(item.number);
  return out;
}

TEST(IntrusiveList, AddsAndRemovesAnywhere) {
  Item a(1), b(2), c(3), d(4);
  ByAge list;
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.pop_front(), nullptr);
  list.push_back(b);
  list.push_back(d);
  list.push_front(a);
  list.insert(&d, c);
  EXPECT_EQ(numbers(list), (std::vector{1, 2, 3, 4}));
  EXPECT_EQ(list.front(), &a);
  EXPECT_EQ(list.back(), &d);
  EXPECT_EQ(ByAge::next(b), &c);
  EXPECT_EQ(ByAge::previous(b), &a);
  EXPECT_EQ(ByAge::next(d), nullptr);

  list.remove(b);
  EXPECT_FALSE(b.by_age.linked());
  list.remove(d);
  list.remove(a);
  EXPECT_EQ(numbers(list), (std::vector{3}));
  EXPECT_EQ(list.pop_front(), &c);
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.size(), 0u);
}

TEST(IntrusiveList, AnElementMayBeInSeveralLists) {
  Item a(1), b(2);
  ByAge ages;
  ByName names;
  ages.push_back(a);
  ages.push_back(b);
  names.push_back(b);
  names.push_back(a);
  ages.remove(a);
  EXPECT_TRUE(a.by_name.linked());
  EXPECT_EQ(names.size(), 2u);
  EXPECT_EQ(names.front(), &b);
}

TEST(IntrusiveList, SplicesAndMoves) {
  Item a(1), b(2), c(3);
  ByAge first, second, empty;
  first.push_back(a);
  second.push_back(b);
  second.push_back(c);
  first.splice_back(second);
  first.splice_back(empty);
  first.splice_back(first);
  EXPECT_EQ(numbers(first), (std::vector{1, 2, 3}));
  EXPECT_TRUE(second.empty());
  EXPECT_EQ(first.size(), 3u);
  EXPECT_EQ(second.size(), 0u);
  ByAge moved = std::move(first);
  EXPECT_EQ(numbers(moved), (std::vector{1, 2, 3}));
  second.splice_back(moved);
  EXPECT_EQ(numbers(second), (std::vector{1, 2, 3}));
  second.remove(c);
  EXPECT_EQ(second.back(), &b);
  second.clear();
  EXPECT_FALSE(a.by_age.linked());
}

TEST(IntrusiveList, CopiesOfElementsAreInNoList) {
  Item a(1);
  ByAge list;
  list.push_back(a);
  const Item copy = a;
  EXPECT_FALSE(copy.by_age.linked());
  EXPECT_EQ(list.size(), 1u);
}

TEST(IntrusiveList, BehavesAsStdListUnderRandomUse) {
  std::mt19937 random(4);
  std::deque<Item> items;
  for (int i = 0; i < 50; ++i) items.emplace_back(i);
  ByAge list;
  std::list<int> model;
  for (int step = 0; step < 20000; ++step) {
    Item& item = items[random() % items.size()];
    if (item.by_age.linked()) {
      model.remove(item.number);
      list.remove(item);
    } else if (list.empty() || random() % 3 == 0) {
      model.push_back(item.number);
      list.push_back(item);
    } else {
      Item* position = list.front();
      auto place = model.begin();
      for (auto skip = random() % list.size(); skip > 0; --skip, ++place)
        position = ByAge::next(*position);
      model.insert(place, item.number);
      list.insert(position, item);
    }
    ASSERT_EQ(list.size(), model.size());
    ASSERT_EQ(numbers(list), std::vector<int>(model.begin(), model.end()));
  }
}

}  // namespace
}  // namespace millrace
