#include "base/indexed_heap.h"

#include <algorithm>
#include <deque>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace millrace {
namespace {

struct Task {
  std::pair<int, int> key;  // deadline, then number
  HeapPosition position;
};
struct KeyOf {
  const std::pair<int, int>& operator()(const Task& task) const { return task.key; }
};
using Heap = IndexedHeap<Task, KeyOf, &Task::position>;

TEST(IndexedHeap, GivesTheSmallestFirst) {
  std::vector<Task> tasks(5);
  const int deadlines[] = {30, 10, 50, 20, 40};
  Heap heap;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    tasks[i].key = {deadlines[i], 0};
    heap.push(tasks[i]);
  }
  heap.remove(tasks[3]);
  EXPECT_FALSE(tasks[3].position.in_heap());
  tasks[2].key.first = 5;
  heap.update(tasks[2]);
  std::vector<int> order;
  while (Task* task = heap.pop()) order.push_back(task->key.first);
  EXPECT_EQ(order, (std::vector{5, 10, 30, 40}));
  EXPECT_EQ(heap.pop(), nullptr);
  EXPECT_EQ(heap.top(), nullptr);
}

TEST(IndexedHeap, BehavesAsASortedSetUnderRandomUse) {
  std::mt19937 random(5);
  std::deque<Task> tasks(200);
  Heap heap;
  std::set<std::pair<int, int>> model;
  const auto new_key = [&](std::size_t i) {
    tasks[i].key = {static_cast<int>(random() % 100), static_cast<int>(i)};
  };
  for (int step = 0; step < 50000; ++step) {
    const std::size_t i = random() % tasks.size();
    Task& task = tasks[i];
    if (!task.position.in_heap()) {
      new_key(i);
      model.insert(task.key);
      heap.push(task);
    } else if (random() % 3 == 0) {
      model.erase(task.key);
      heap.remove(task);
    } else if (random() % 2 == 0) {
      model.erase(task.key);
      new_key(i);
      model.insert(task.key);
      heap.update(task);
    } else {
      ASSERT_EQ(heap.pop()->key, *model.begin());
      model.erase(model.begin());
    }
    ASSERT_EQ(heap.size(), model.size());
    if (!model.empty()) {
      ASSERT_EQ(heap.top()->key, *model.begin());
    }
  }
  heap.clear();
  EXPECT_TRUE(std::none_of(tasks.begin(), tasks.end(),
                           [](const Task& task) { return task.position.in_heap(); }));
}

}  // namespace
}  // namespace millrace
