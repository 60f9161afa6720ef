#!/bin/bash
# Runs clang-tidy over the named .cpp files, or over all of ours. Needs a configured dev preset.
set -euo pipefail
cd "$(dirname "$0")/.."
tidy=.deps/bin/clang-tidy
[ -x "$tidy" ] || python3 tools/deps/fetch.py lint
[ -f build/dev/compile_commands.json ] || { echo "tidy: configure first, as make lint does" >&2; exit 1; }
if [ $# -eq 0 ]; then
  # Only what the dev build compiles has flags to check with.
  set -- $(python3 - <<'PY'
import json, os
root = os.getcwd() + "/"
files = {os.path.normpath(os.path.join(entry["directory"], entry["file"]))
         for entry in json.load(open("build/dev/compile_commands.json"))}
names = sorted(file[len(root):] for file in files if file.startswith(root))
print("\n".join(name for name in names if name.endswith(".cpp") and not name.startswith("build/")))
PY
  )
fi
# Flags that g++ alone knows are no finding.
printf '%s\n' "$@" | xargs -P "$(nproc)" -n 4 "$tidy" -p build/dev --quiet \
  --extra-arg=-Wno-unknown-warning-option --extra-arg=-Wno-unused-command-line-argument \
  2> >(grep -v 'warnings\? generated\.$' >&2 || true)
