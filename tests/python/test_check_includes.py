"""tools/check_includes.py finds every kind of forbidden include, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "tools" / "check_includes.py"

ALLOWED = {
    "include/millrace/engine.h": "#include <millrace/error.h>\n#include <vector>\n",
    "include/millrace/error.h": "",
    "src/base/clock.h": "#include <chrono>\n",
    "src/device/device.cpp": '#include "base/clock.h"\n#include <cuda_runtime_api.h>\n',
    "src/engine/engine.cpp": '#include "engine/queue.h"\n#include "device/device.h"\n#include <millrace/engine.h>\n',
    "src/engine/queue.h": "// #include \"cli/main.h\"\n/* #include <cuda.h> */\nconst char* url = \"http://x\";\n",
    "src/io/npy.cpp": '#include "base/clock.h"\n#include "tensor/view.h"\n',
    "src/cli/run.cpp": '#include "io/npy.h"\n#include "repository/config.h"\n#include "direct/loop.h"\n#include <CLI/CLI.hpp>\n',
    "bench/direct/loop.cpp": '#include "direct/loop.h"\n#include <onnxruntime_c_api.h>\n',
    "examples/first.cpp": "#include <millrace/engine.h>\n",
}

FORBIDDEN = [
    ("src/base/clock.h", '#include "engine/queue.h"', "base/ may not include engine/"),
    ("src/base/clock.h", '#include "../engine/queue.h"', "base/ may not include engine/"),
    ("src/base/clock.h", '#  include\t"engine/queue.h"', "base/ may not include engine/"),
    ("src/base/clock.h", "#include <engine/queue.h>", "base/ may not include engine/"),
    ("src/device/device.cpp", '#include "kernels/gather.h"', "device/ may not include kernels/"),
    ("src/engine/queue.h", '#include "repository/config.h"', "engine/ may not include repository/"),
    ("src/engine/queue.h", '#include "io/npy.h"', "engine/ may not include io/"),
    ("src/engine/queue.h", "#include <cuda_runtime_api.h>", "a CUDA header"),
    ("src/engine/queue.h", "#include <cuda/std/span>", "a CUDA header"),
    ("src/engine/queue.h", '#include "direct/loop.h"', "bench/direct"),
    ("src/io/npy.cpp", '#include "device/device.h"', "io/ may not include device/"),
    ("src/cli/run.cpp", '#include "engine/queue.h"', "cli/ may not include engine/"),
    ("src/cli/run.cpp", '#include "tensor/layout.h"', "cli/ may not include tensor/"),
    ("src/cli/run.cpp", "#include <cuda.h>", "a CUDA header"),
    ("src/attic/old.cpp", "", "src/attic is no room"),
    ("include/millrace/engine.h", '#include "engine/queue.h"', "a public header"),
    ("include/millrace/engine.h", "#include <cuda_runtime.h>", "a public header"),
    ("bench/direct/loop.cpp", "#include <millrace/engine.h>", "bench/direct"),
    ("bench/direct/loop.cpp", '#include "base/clock.h"', "bench/direct"),
    ("bench/direct/loop.cpp", '#include "../../src/base/clock.h"', "bench/direct"),
    ("examples/first.cpp", '#include "engine/queue.h"', "public headers only"),
]


def plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def check(root):
    done = subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_this_tree_is_clean():
    status, output = check(ROOT)
    assert status == 0, output


def test_allowed_includes_pass(tmp_path):
    plant(tmp_path, ALLOWED)
    assert check(tmp_path) == (0, f"includes: {len(ALLOWED)} files, 0 forbidden\n")


@pytest.mark.parametrize("file, line, reason", FORBIDDEN)
def test_a_forbidden_include_is_found(tmp_path, file, line, reason):
    plant(tmp_path, ALLOWED)
    before = ALLOWED.get(file, "")
    plant(tmp_path, {file: before + line + "\n"})
    status, output = check(tmp_path)
    assert status == 1
    where = before.count("\n") + 1
    assert f"{file}:{where}:" in output and reason in output
    assert output.endswith(" 1 forbidden\n")


def test_an_empty_tree_is_an_error(tmp_path):
    status, output = check(tmp_path)
    assert status == 1 and "no source file" in output
