#!/bin/bash
# Runs the benchmarks of build/release, all of them or those that CELLS names, and updates the tables in the docs.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra cells <<< "${CELLS:-}"
python3 bench/run.py ${cells[@]+"${cells[@]}"} "$@"
python3 tools/benchmark_tables.py
