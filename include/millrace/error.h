// What can go wrong, and how a function says so.
//
// Whatever a caller may reasonably meet (a wrong shape, a missing file, a full queue) comes back as
// a `Result<T>`; only constructors of handles may throw. Nothing throws out of a thread, a callback
// or a destructor.
#pragma once

#include <cassert>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace millrace {

enum class ErrorCode : std::uint8_t {
  invalid_argument,   // the caller's request or configuration is wrong; the same call fails again
  not_found,          // a file, model, device or backend of that name does not exist
  unavailable,        // cannot be done now (unloading, quarantined, library missing)
  queue_full,         // the bounded queue has no room; try again later
  deadline_exceeded,  // not done before the request's deadline
  cancelled,          // the caller took the request back before it started
  out_of_memory,      // the device's ledger or the allocator refused
  gpu_fault,          // the device reported a fault
  unsupported,        // well formed, but this build, backend or device cannot do it
  internal,           // a defect of Millrace or of a library under it
};

/// The smallest thing that must be torn down before work can go on.
enum class Scope : std::uint8_t { request, model, process };

/// "invalid_argument", "queue_full", ...
[[nodiscard]] std::string_view to_string(ErrorCode code) noexcept;
/// "request", "model", "process".
[[nodiscard]] std::string_view to_string(Scope scope) noexcept;

/// A failure: what was expected, what was found, where, and what to do.
struct [[nodiscard]] Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
  Scope scope = Scope::request;

  friend bool operator==(const Error&, const Error&) = default;
};

/// A value or the error that took its place. Movable if `T` is; the success path does not allocate.
/// Reading the side that is not there is a programming error (checked by assert).
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  /// From what converts to a class `T`: a pointer to a derived class, a string literal.
  template <class U>
    requires(std::is_class_v<T> && std::convertible_to<U, T> &&
             !std::same_as<std::remove_cvref_t<U>, T> &&
             !std::same_as<std::remove_cvref_t<U>, Error> &&
             !std::same_as<std::remove_cvref_t<U>, Result>)
  Result(U&& value) : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  [[nodiscard]] bool ok() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return ok(); }

  [[nodiscard]] T& value() & { return there(std::get_if<0>(&state_)); }
  [[nodiscard]] const T& value() const& { return there(std::get_if<0>(&state_)); }
  [[nodiscard]] T&& value() && { return std::move(there(std::get_if<0>(&state_))); }
  [[nodiscard]] T& operator*() & { return value(); }
  [[nodiscard]] const T& operator*() const& { return value(); }
  [[nodiscard]] T&& operator*() && { return std::move(*this).value(); }
  [[nodiscard]] T* operator->() { return &value(); }
  [[nodiscard]] const T* operator->() const { return &value(); }

  [[nodiscard]] Error& error() & { return there(std::get_if<1>(&state_)); }
  [[nodiscard]] const Error& error() const& { return there(std::get_if<1>(&state_)); }
  [[nodiscard]] Error&& error() && { return std::move(there(std::get_if<1>(&state_))); }

 private:
  template <class Side>
  static Side& there(Side* side) noexcept {
    assert(side);
    return *side;
  }

  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  [[nodiscard]] bool ok() const noexcept { return !error_; }
  explicit operator bool() const noexcept { return ok(); }

  [[nodiscard]] Error& error() & { return assert(!ok()), *error_; }
  [[nodiscard]] const Error& error() const& { return assert(!ok()), *error_; }
  [[nodiscard]] Error&& error() && { return assert(!ok()), std::move(*error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace millrace
