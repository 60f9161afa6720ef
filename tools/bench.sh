#!/bin/bash
# Runs every benchmark of build/release, one after another; each writes its own record.
set -euo pipefail
cd "$(dirname "$0")/.."
count=0
for program in build/release/bin/bench_*; do
  [ -x "$program" ] || continue
  echo "== $(basename "$program")"
  "$program" "$@"
  count=$((count + 1))
done
[ "$count" -gt 0 ] || { echo "bench: no benchmark was built" >&2; exit 1; }
