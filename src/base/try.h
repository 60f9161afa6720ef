// Passing errors up: the function that uses these returns an `Error` or a `Result` of anything.
#pragma once

#include <utility>

#include <millrace/error.h>

#define MILLRACE_CONCAT_INNER(a, b) a##b
#define MILLRACE_CONCAT(a, b) MILLRACE_CONCAT_INNER(a, b)

/// Returns the error of a Result of any type; goes on otherwise.
///   MILLRACE_TRY(stream.record(event));
#define MILLRACE_TRY(...) \
  MILLRACE_TRY_INNER(MILLRACE_CONCAT(millrace_try_, __COUNTER__), __VA_ARGS__)
#define MILLRACE_TRY_INNER(result, ...)                                              \
  do {                                                                               \
    if (auto result = (__VA_ARGS__); !result.ok()) return std::move(result).error(); \
  } while (false)

/// Returns the error, or declares a variable with the value.
///   MILLRACE_ASSIGN(auto shape, parse_shape(text));
#define MILLRACE_ASSIGN(declaration, ...) \
  MILLRACE_ASSIGN_INNER(MILLRACE_CONCAT(millrace_try_, __COUNTER__), declaration, __VA_ARGS__)
#define MILLRACE_ASSIGN_INNER(result, declaration, ...) \
  auto result = (__VA_ARGS__);                          \
  if (!result.ok()) return std::move(result).error();   \
  declaration = std::move(result).value()
