// The ranges that a profiler sees, as one sees them that NVTX has loaded into this process.
#include <dlfcn.h>

#include <cstdlib>

#include "device/annotate.h"
#include "tests/engine/harness.h"

namespace millrace::testing {
namespace {

// NVTX looks once, at the first range.
[[maybe_unused]] const int kListening = setenv("NVTX_INJECTION64_PATH", MILLRACE_LISTENER, 1);

template <class Function>
Function* listener(const char* name) {
  void* handle = dlopen(MILLRACE_LISTENER, RTLD_NOW | RTLD_NOLOAD);
  return handle ? reinterpret_cast<Function*>(dlsym(handle, name)) : nullptr;
}

std::string lines() {
  auto* const all = listener<const char*()>("listener_lines");
  return all ? all() : "(the listener is not loaded)";
}

TEST(Annotations, ShowEveryBatchWithItsLaneAndPhases) {
  Engine engine = make_engine();
  ModelConfig config = one_at_a_time("reference:identity?wants_prepare=1");
  config.name = "digits";
  config.batching.max_items = 4;
  const Model model = must(engine.load(config));
  EXPECT_TRUE(annotations_on.load());
  const Numbers numbers(3);
  expect_echo(model.infer(numbers.request()), numbers);
  must(engine.unload("digits"));
  const std::string all = lines();
  for (const char* expected :
       {"millrace: load digits\n", "millrace: prepare digits, 4 items, lane 0, slot 0\n",
        "millrace: digits: batch 0, 3 items, lane 0, slot 0\nmillrace: copy_in\nmillrace: "
        "compute\nmillrace: copy_out\n",
        "millrace: digits: complete batch 0\n"}) {
    EXPECT_NE(all.find(expected), std::string::npos) << expected << "is not in\n" << all;
  }
  EXPECT_EQ(listener<int()>("listener_open")(), 0) << "ranges that were never closed";
}

}  // namespace
}  // namespace millrace::testing
