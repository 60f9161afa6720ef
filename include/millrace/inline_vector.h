// A vector whose first N elements live inside it, so that a request of the usual size needs no
// allocation of its own.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace millrace {

/// A sequence like std::vector, with room for `N` elements in place. Moving moves elements while
/// they are in place. References are invalidated by growth, as with std::vector.
template <class T, std::size_t N>
class InlineVector {
  static_assert(N > 0);
  static_assert(std::is_nothrow_move_constructible_v<T>, "elements are moved as the vector grows");

 public:
  using value_type = T;
  using iterator = T*;
  using const_iterator = const T*;

  InlineVector() noexcept {}
  InlineVector(std::initializer_list<T> values) : InlineVector() {
    reserve(values.size());
    for (const T& value : values) emplace_back(value);
  }
  InlineVector(const InlineVector& other)
    requires std::is_copy_constructible_v<T>
      : InlineVector() {  // delegates, so that what is there is destroyed when a copy throws
    reserve(other.size_);
    for (const T& value : other) emplace_back(value);
  }
  InlineVector(InlineVector&& other) noexcept { take(std::move(other)); }
  InlineVector& operator=(const InlineVector& other)
    requires std::is_copy_constructible_v<T>
  {
    if (this != &other) *this = InlineVector(other);
    return *this;
  }
  InlineVector& operator=(InlineVector&& other) noexcept {
    if (this != &other) {
      reset();
      take(std::move(other));
    }
    return *this;
  }
  ~InlineVector() { reset(); }

  template <class... Args>
  T& emplace_back(Args&&... args) {
    T* element;
    if (size_ == capacity_) {
      T value(std::forward<Args>(args)...);  // an argument may lie inside this vector
      grow(capacity_ * 2);
      element = std::construct_at(data_ + size_, std::move(value));
    } else {
      element = std::construct_at(data_ + size_, std::forward<Args>(args)...);
    }
    ++size_;
    return *element;
  }
  void push_back(T value) { emplace_back(std::move(value)); }
  void pop_back() noexcept { std::destroy_at(data_ + --size_); }
  void clear() noexcept {
    std::destroy_n(data_, size_);
    size_ = 0;
  }
  void reserve(std::size_t capacity) {
    if (capacity > capacity_) grow(capacity);
  }
  void resize(std::size_t size) {
    reserve(size);
    while (size_ > size) pop_back();
    while (size_ < size) emplace_back();
  }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] T* data() noexcept { return data_; }
  [[nodiscard]] const T* data() const noexcept { return data_; }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_[i]; }
  [[nodiscard]] T& front() noexcept { return data_[0]; }
  [[nodiscard]] const T& front() const noexcept { return data_[0]; }
  [[nodiscard]] T& back() noexcept { return data_[size_ - 1]; }
  [[nodiscard]] const T& back() const noexcept { return data_[size_ - 1]; }
  [[nodiscard]] iterator begin() noexcept { return data_; }
  [[nodiscard]] iterator end() noexcept { return data_ + size_; }
  [[nodiscard]] const_iterator begin() const noexcept { return data_; }
  [[nodiscard]] const_iterator end() const noexcept { return data_ + size_; }

 private:
  [[nodiscard]] T* in_place() noexcept { return reinterpret_cast<T*>(storage_); }

  void grow(std::size_t capacity) {
    T* data = std::allocator<T>().allocate(capacity);
    std::uninitialized_move_n(data_, size_, data);
    std::destroy_n(data_, size_);
    if (data_ != in_place()) std::allocator<T>().deallocate(data_, capacity_);
    data_ = data;
    capacity_ = capacity;
  }
  void reset() noexcept {
    clear();
    if (data_ != in_place()) std::allocator<T>().deallocate(data_, capacity_);
    data_ = in_place();
    capacity_ = N;
  }
  void take(InlineVector&& other) noexcept {
    if (other.data_ == other.in_place()) {
      std::uninitialized_move_n(other.data_, other.size_, data_);
      size_ = other.size_;
      other.clear();
    } else {
      data_ = std::exchange(other.data_, other.in_place());
      size_ = std::exchange(other.size_, 0);
      capacity_ = std::exchange(other.capacity_, N);
    }
  }

  // NOLINTNEXTLINE(bugprone-sizeof-expression): of the element itself, which may be a pointer
  alignas(T) std::byte storage_[N * sizeof(T)];
  T* data_ = in_place();
  std::size_t size_ = 0;
  std::size_t capacity_ = N;
};

}  // namespace millrace
