// millrace cache: the engines that were built for ONNX files.
#include <millrace/build.h>

#include "cli/print.h"
#include "cli/verbs.h"

namespace millrace::cli {
namespace {

Result<int> list(bool json) {
  const Result<std::vector<CachedEngine>> engines = list_engine_cache();
  if (!engines.ok()) return engines.error();
  if (json) {
    Json rows = Json::array();
    for (const CachedEngine& engine : *engines) {
      rows.push_back({{"file", engine.file},
                      {"bytes", engine.bytes},
                      {"model", engine.model},
                      {"device", engine.device},
                      {"builder", engine.builder},
                      {"options", engine.options}});
    }
    print_json({{"folder", engine_cache_folder()}, {"engines", rows}});
    return kFine;
  }
  if (engines->empty()) {
    print("The engine cache " + in_quotes(engine_cache_folder()) + " is empty.\n");
    return kFine;
  }
  Table table({"model", "device", "builder", "size", "options"}, {3});
  for (const CachedEngine& engine : *engines) {
    table.add({printable(engine.model), printable(engine.device), printable(engine.builder),
               format_bytes(engine.bytes), printable(engine.options)});
  }
  print("Engines in " + in_quotes(engine_cache_folder()) + ":\n" + table.text());
  return kFine;
}

Result<int> clear(bool json) {
  const Result<int> removed = clear_engine_cache();
  if (!removed.ok()) return removed.error();
  if (json) {
    print_json({{"folder", engine_cache_folder()}, {"removed", *removed}});
  } else {
    print("Removed " + std::to_string(*removed) + (*removed == 1 ? " engine.\n" : " engines.\n"));
  }
  return kFine;
}

}  // namespace

void add_cache(CLI::App& app, Context& context) {
  auto json = std::make_shared<bool>(false);
  CLI::App* verb = app.add_subcommand("cache", "Lists or clears the engines built for ONNX files");
  verb->require_subcommand(1);
  verb->add_flag("--json", *json, "Print JSON");
  verb->add_subcommand("list", "Shows every engine and what it was built from and for")
      ->callback([json, &context] { context.action = [json] { return list(*json); }; });
  verb->add_subcommand("clear", "Removes them all")->callback([json, &context] {
    context.action = [json] { return clear(*json); };
  });
}

}  // namespace millrace::cli
