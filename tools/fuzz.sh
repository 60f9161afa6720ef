#!/bin/bash
# Runs every fuzz target of build/fuzz for the given number of seconds, starting from the committed corpus. What is
# found new goes to build/fuzz/corpus/; inputs that fail go to build/fuzz/failures/ and end the run with 1.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
failures=build/fuzz/failures
mkdir -p "$failures"
# Failures are reported with function names and lines.
ASAN_SYMBOLIZER_PATH=$(command -v llvm-symbolizer-16 || true)
export ASAN_SYMBOLIZER_PATH UBSAN_OPTIONS="print_stacktrace=1:external_symbolizer_path=$ASAN_SYMBOLIZER_PATH"
failed=()
count=0
for target in $(tr ';' ' ' < build/fuzz/fuzz_targets.txt); do
  name=${target%_fuzz}
  seeds=tests/fuzz/corpus/$name
  grown=build/fuzz/corpus/$name
  [ -d "$seeds" ] || { echo "fuzz: $target has no corpus; expected files in $seeds/" >&2; exit 1; }
  mkdir -p "$grown"
  count=$((count + 1))
  echo "fuzz: $target, $seconds s"
  if ! "build/fuzz/bin/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_funcs=0 -print_final_stats=1 \
      -artifact_prefix="$failures/$name-" "$grown" "$seeds" > "build/fuzz/$name.log" 2>&1; then
    failed+=("$target")
    tail -n 60 "build/fuzz/$name.log" >&2
  else
    grep -E 'stat::(number_of_executed_units|new_units_added)' "build/fuzz/$name.log"
  fi
done
[ "$count" -gt 0 ] || { echo "fuzz: no targets were built" >&2; exit 1; }
if [ "${#failed[@]}" -gt 0 ]; then
  echo "fuzz: FAILED: ${failed[*]}; inputs are in $failures/; replay one with build/asan/bin/NAME_fuzz FILE" >&2
  exit 1
fi
echo "fuzz: $count targets, no failure"
