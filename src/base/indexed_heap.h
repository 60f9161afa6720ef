// A priority queue from whose middle elements can be taken.
#pragma once

#include <cassert>
#include <cstddef>
#include <utility>
#include <vector>

namespace millrace {

/// A member of each element: where in the heap it is. Copies are in no heap.
class HeapPosition {
 public:
  HeapPosition() = default;
  HeapPosition(const HeapPosition&) noexcept {}
  HeapPosition& operator=(const HeapPosition&) noexcept { return *this; }

  [[nodiscard]] bool in_heap() const noexcept { return index_ != kNone; }

 private:
  template <class U, class KeyOf, HeapPosition U::*>
  friend class IndexedHeap;

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::size_t index_ = kNone;
};

/// A binary heap of pointers to elements that know their own position, smallest key first. Push,
/// pop and the removal of any element take O(log n). `KeyOf` is a function object:
/// `KeyOf{}(element)` is ordered by
/// `<`. Elements of equal keys come in no particular order: put a sequence number in the key where
/// it matters. A key must not change while its element is in the heap, but for `update` right
/// after.
///
/// Does not own its elements. Allocates only as it grows beyond what was reserved. Not thread-safe.
template <class T, class KeyOf, HeapPosition T::*Position>
class IndexedHeap {
 public:
  IndexedHeap() = default;
  IndexedHeap(const IndexedHeap&) = delete;
  IndexedHeap& operator=(const IndexedHeap&) = delete;
  ~IndexedHeap() { clear(); }

  [[nodiscard]] bool empty() const noexcept { return elements_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return elements_.size(); }
  void reserve(std::size_t size) { elements_.reserve(size); }
  /// The element of the smallest key; null when empty.
  [[nodiscard]] T* top() const noexcept { return elements_.empty() ? nullptr : elements_.front(); }

  void push(T& element) {
    assert(!(element.*Position).in_heap());
    elements_.push_back(&element);
    rise(elements_.size() - 1);
  }
  /// Takes the element of the smallest key out; null when empty.
  T* pop() noexcept {
    T* element = top();
    if (element) remove(*element);
    return element;
  }
  /// Takes out an element of this heap.
  void remove(T& element) noexcept {
    const std::size_t index = (element.*Position).index_;
    assert(index < elements_.size() && elements_[index] == &element);
    (element.*Position).index_ = HeapPosition::kNone;
    T* last = elements_.back();
    elements_.pop_back();
    if (last == &element) return;
    elements_[index] = last;
    settle(index);
  }
  /// Puts an element of this heap where it belongs after its key has changed.
  void update(T& element) noexcept { settle((element.*Position).index_); }
  void clear() noexcept {
    for (T* element : elements_) (element->*Position).index_ = HeapPosition::kNone;
    elements_.clear();
  }
  /// All elements, in heap order.
  [[nodiscard]] const std::vector<T*>& elements() const noexcept { return elements_; }

 private:
  [[nodiscard]] static bool before(const T& a, const T& b) { return KeyOf{}(a) < KeyOf{}(b); }

  void place(std::size_t index, T* element) noexcept {
    elements_[index] = element;
    (element->*Position).index_ = index;
  }
  void settle(std::size_t index) noexcept {
    if (index > 0 && before(*elements_[index], *elements_[(index - 1) / 2])) {
      rise(index);
    } else {
      sink(index);
    }
  }
  void rise(std::size_t index) noexcept {
    T* element = elements_[index];
    while (index > 0) {
      const std::size_t parent = (index - 1) / 2;
      if (!before(*element, *elements_[parent])) break;
      place(index, elements_[parent]);
      index = parent;
    }
    place(index, element);
  }
  void sink(std::size_t index) noexcept {
    T* element = elements_[index];
    while (true) {
      std::size_t child = 2 * index + 1;
      if (child >= elements_.size()) break;
      if (child + 1 < elements_.size() && before(*elements_[child + 1], *elements_[child])) ++child;
      if (!before(*elements_[child], *element)) break;
      place(index, elements_[child]);
      index = child;
    }
    place(index, element);
  }

  std::vector<T*> elements_;
};

}  // namespace millrace
