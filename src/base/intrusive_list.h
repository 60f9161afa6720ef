// A doubly linked list whose links lie in its elements: no allocation, removal from anywhere in
// O(1).
#pragma once

#include <cassert>
#include <cstddef>
#include <iterator>
#include <utility>

namespace millrace {

/// A member of each element, one for every list that the element can be in at once. Copies are not
/// in any list.
template <class T>
class ListHook {
 public:
  ListHook() = default;
  ListHook(const ListHook&) noexcept {}
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): nothing is assigned
  ListHook& operator=(const ListHook&) noexcept { return *this; }
  ~ListHook() { assert(!linked_ && "destroyed while in a list"); }

  [[nodiscard]] bool linked() const noexcept { return linked_; }

 private:
  template <class U, ListHook<U> U::*>
  friend class IntrusiveList;

  T* previous_ = nullptr;
  T* next_ = nullptr;
  bool linked_ = false;
};

/// Does not own its elements, which must be removed before they are destroyed. Not thread-safe.
///   struct Request { ListHook<Request> waiting; };
///   IntrusiveList<Request, &Request::waiting> queue;
template <class T, ListHook<T> T::*Hook>
class IntrusiveList {
 public:
  class Iterator {
   public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::forward_iterator_tag;
    using pointer = T*;
    using reference = T&;

    Iterator() = default;
    explicit Iterator(T* element) noexcept : element_(element) {}
    [[nodiscard]] T& operator*() const noexcept { return *element_; }
    [[nodiscard]] T* operator->() const noexcept { return element_; }
    Iterator& operator++() noexcept {
      element_ = (element_->*Hook).next_;
      return *this;
    }
    Iterator operator++(int) noexcept {
      Iterator old = *this;
      ++*this;
      return old;
    }
    friend bool operator==(Iterator, Iterator) = default;

   private:
    T* element_ = nullptr;
  };

  IntrusiveList() = default;
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;
  IntrusiveList(IntrusiveList&& other) noexcept
      : front_(std::exchange(other.front_, nullptr)),
        back_(std::exchange(other.back_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  ~IntrusiveList() { clear(); }

  [[nodiscard]] bool empty() const noexcept { return front_ == nullptr; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  /// Null when empty.
  [[nodiscard]] T* front() const noexcept { return front_; }
  [[nodiscard]] T* back() const noexcept { return back_; }
  /// The neighbour of an element of this list; null at the end.
  [[nodiscard]] static T* next(const T& element) noexcept { return (element.*Hook).next_; }
  [[nodiscard]] static T* previous(const T& element) noexcept { return (element.*Hook).previous_; }

  void push_back(T& element) noexcept { insert(nullptr, element); }
  void push_front(T& element) noexcept { insert(front_, element); }
  /// Before `position`, or at the end when that is null.
  void insert(T* position, T& element) noexcept {
    ListHook<T>& hook = element.*Hook;
    assert(!hook.linked_ && "already in a list");
    hook.linked_ = true;
    hook.next_ = position;
    hook.previous_ = position ? (position->*Hook).previous_ : back_;
    (hook.previous_ ? (hook.previous_->*Hook).next_ : front_) = &element;
    (position ? (position->*Hook).previous_ : back_) = &element;
    ++size_;
  }
  /// An element of this list.
  void remove(T& element) noexcept {
    ListHook<T>& hook = element.*Hook;
    assert(hook.linked_ && "not in a list");
    (hook.previous_ ? (hook.previous_->*Hook).next_ : front_) = hook.next_;
    (hook.next_ ? (hook.next_->*Hook).previous_ : back_) = hook.previous_;
    hook.previous_ = hook.next_ = nullptr;
    hook.linked_ = false;
    --size_;
  }
  /// Null when empty.
  T* pop_front() noexcept {
    T* element = front_;
    if (element) remove(*element);
    return element;
  }
  /// Moves all of `other` behind the last element, in O(1).
  void splice_back(IntrusiveList& other) noexcept {
    if (other.empty() || &other == this) return;
    (back_ ? (back_->*Hook).next_ : front_) = other.front_;
    (other.front_->*Hook).previous_ = back_;
    back_ = std::exchange(other.back_, nullptr);
    other.front_ = nullptr;
    size_ += std::exchange(other.size_, 0);
  }
  void clear() noexcept {
    while (pop_front()) {
    }
  }

  /// The element that an iterator stands on may be removed only after the iterator has moved on.
  [[nodiscard]] Iterator begin() const noexcept { return Iterator(front_); }
  [[nodiscard]] Iterator end() const noexcept { return Iterator(); }

 private:
  T* front_ = nullptr;
  T* back_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace millrace
