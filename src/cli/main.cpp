// The program: finds the verb, runs it, and turns what it says into an exit code.
#include <clocale>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>

#include <CLI/CLI.hpp>

#include <millrace/engine.h>
#include <millrace/log.h>
#include <millrace/version.h>

#include "cli/print.h"
#include "cli/verbs.h"

namespace millrace::cli {
namespace {

std::string version_text() {
  std::string text;
  const auto line = [&text](std::string_view name, std::string_view value) {
    text.append(name).append(name.size() < 20 ? 20 - name.size() : 1, ' ').append(value) += '\n';
  };
  for (const ComponentVersion& component : component_versions()) {
    line(component.component, component.version);
  }
  const CudaStatus cuda = cuda_status();
  line("cuda runtime", cuda.runtime_version.empty() ? "built without" : cuda.runtime_version);
  line("cuda driver", cuda.driver_version.empty() ? cuda.reason : cuda.driver_version);
  for (const BackendInfo& backend : backend_infos()) {
    const std::string& version = backend.version.empty() ? "built in" : backend.version;
    line("backend " + backend.name, backend.usable ? version : "not usable: " + backend.reason);
  }
  text.pop_back();
  return text;
}

int report(std::string_view message, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "millrace: error: %.*s\n", static_cast<int>(message.size()), message.data());
  return code;
}

// What was printed may not have arrived: a full disk shows only when the buffer is written.
int flush_output(int code) {
  const int reason = flush_printed();
  if (reason == 0) return code;
  return report(std::string("cannot write to standard output: ") + std::strerror(reason), kFailed);
}

std::string usage_message(const CLI::App& app, const std::string& what) {
  std::string command = "millrace";
  for (const CLI::App* verb : app.get_subcommands()) command += " " + verb->get_name();
  return what + "; see \"" + command + " --help\"";
}

void add_log_level(CLI::App& app) {
  const auto set = [](const std::string& level) {
    if (!set_log_level(level)) {
      throw CLI::ValidationError(
          "--log", "expected debug, info, warning, error or off, got \"" + level + "\"");
    }
  };
  app.add_option_function<std::string>("--log", set,
                                       "Least level of messages: debug, info, warning, error, off")
      ->type_name("LEVEL");
}

int run(int argc, char** argv) {
  CLI::App app("Runs trained models on every device of a machine.", "millrace");
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.get_formatter()->column_width(34);
  app.set_version_flag("--version", version_text,
                       "Versions of Millrace and of everything under it");
  add_log_level(app);
  Context context;
  if (argc > 1) context.arguments.assign(argv + 1, argv + argc);
  add_devices(app, context);
  add_inspect(app, context);
  add_run(app, context);
  add_bench(app, context);
  add_demo(app, context);
  add_build(app, context);
  add_cache(app, context);
  add_serve(app, context);
  add_client(app, context);
  app.footer(
      "\"millrace VERB --help\" tells more. Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 "
      "a device failed for good.");

  try {
    app.parse(argc, argv);
    if (!context.action)
      throw UsageError("expected a verb: devices, inspect, run, bench, serve, client, demo, build or cache");
    const Result<int> result = context.action();
    if (result.ok()) return flush_output(*result);
    const bool restart = result.error().scope == Scope::process;
    return flush_output(report(result.error().message, restart ? kRestart : kFailed));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {  // help or version was asked for
      std::ostringstream text;
      app.exit(error, text, text);
      print(text.str());
      return flush_output(kFine);
    }
    return report(usage_message(app, error.what()), kWrongUsage);
  } catch (const UsageError& error) {
    return report(usage_message(app, error.what()), kWrongUsage);
  }
}

}  // namespace
}  // namespace millrace::cli

int main(int argc, char** argv) {
  millrace::set_cuda_defaults();  // before anything asks CUDA, and before other threads
  std::setlocale(LC_CTYPE, "");   // what the terminal can show; numbers stay as they are
  try {
    return millrace::cli::run(argc, argv);
  } catch (const std::exception& error) {
    return millrace::cli::report(error.what(), millrace::cli::kFailed);
  }
}
