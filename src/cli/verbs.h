// The verbs of the command line: one file each, which adds its options to the program and says what
// to do.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <millrace/error.h>

namespace millrace::cli {

/// Exit codes of the program.
inline constexpr int kFine = 0;
inline constexpr int kFailed = 1;
inline constexpr int kWrongUsage = 2;
inline constexpr int kRestart = 3;  // a device failed for good: only a new process gets it back

/// What `main` and the verbs share. A verb's parse callback sets `action`; `main` calls it once the
/// whole command line is known to be good. It returns an exit code, or an error, which is printed
/// as "millrace: error: MESSAGE" and makes the exit code 1, or 3 where it is of Scope::process.
///
/// What is wrong with the command line itself is thrown as `CLI::ValidationError` while parsing, or
/// from the action as `UsageError`: either ends with exit code 2.
struct Context {
  std::vector<std::string> arguments;  // all of the command line, without the program
  std::function<Result<int>()> action;
};

/// Wrong usage that shows only after parsing; `what()` says what was expected and found.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

void add_devices(CLI::App& app, Context& context);
void add_inspect(CLI::App& app, Context& context);
void add_run(CLI::App& app, Context& context);
void add_bench(CLI::App& app, Context& context);  // in bench.cpp
void add_demo(CLI::App& app, Context& context);
void add_build(CLI::App& app, Context& context);
void add_cache(CLI::App& app, Context& context);
void add_serve(CLI::App& app, Context& context);
void add_client(CLI::App& app, Context& context);

}  // namespace millrace::cli
