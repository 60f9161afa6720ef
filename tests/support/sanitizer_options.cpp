// The sanitizers' settings, built into every executable of a sanitizer preset, so that a run by
// hand behaves like one by ctest. MILLRACE_SUPPRESSIONS, where it is defined, is the folder with
// the frames of libraries that may be ignored, MILLRACE_LIBRARIES names those libraries;
// executables that run only our own code are built without.

// Names and signatures are the sanitizers'.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" {

const char* __asan_default_options();
const char* __lsan_default_options();
const char* __tsan_default_options();
const char* __ubsan_default_options();

[[gnu::used, gnu::visibility("default")]] const char* __asan_default_options() {
  return "detect_stack_use_after_return=1:strict_string_checks=1";
}

[[gnu::used, gnu::visibility("default")]] const char* __lsan_default_options() {
#ifdef MILLRACE_SUPPRESSIONS
  return "suppressions=" MILLRACE_SUPPRESSIONS "/lsan_" MILLRACE_LIBRARIES
         ".txt:print_suppressions=0";
#else
  return "";
#endif
}

[[gnu::used, gnu::visibility("default")]] const char* __tsan_default_options() {
#ifdef MILLRACE_SUPPRESSIONS
  // Without the stack of an access, what those libraries did cannot be told from what we did. What
  // they send was written by us: each 8 bytes of it would be looked at as a race of its own.
  return "halt_on_error=1:second_deadlock_stack=1:history_size=7:intercept_send=0:"
         "suppressions=" MILLRACE_SUPPRESSIONS "/tsan_" MILLRACE_LIBRARIES ".txt";
#else
  return "halt_on_error=1:second_deadlock_stack=1";
#endif
}

[[gnu::used, gnu::visibility("default")]] const char* __ubsan_default_options() {
  return "print_stacktrace=1:halt_on_error=1";
}

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
