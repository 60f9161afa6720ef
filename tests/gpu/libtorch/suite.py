"""The tests with LibTorch: compiled where Python's torch package is, against its headers and an installed Millrace."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TORCH_QUERY = """
import glob, json, os, torch
from torch.utils import cpp_extension
packages = os.path.dirname(os.path.dirname(torch.__file__))
print(json.dumps({"version": torch.__version__, "cxx11_abi": bool(torch._C._GLIBCXX_USE_CXX11_ABI), "gpu": torch.cuda.is_available(),
                  "include": cpp_extension.include_paths(),
                  "cuda": [path for path in glob.glob(packages + "/nvidia/*/include") + ["/usr/local/cuda/include"]
                           if all(os.path.exists(path + name) for name in ("/cuda_runtime_api.h", "/crt/host_config.h"))],
                  "lib": os.path.dirname(torch.__file__) + "/lib"}))
"""


def torch_paths():
    """Where LibTorch is, or why it cannot be used."""
    python = os.environ.get("MILLRACE_TORCH_PYTHON", "python3")
    try:
        done = subprocess.run([python, "-c", TORCH_QUERY], capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{python}: {error}"
    if done.returncode != 0:
        return None, f"{python} has no usable torch: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}"
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if not found["gpu"]:
        return None, f"torch {found['version']} sees no GPU"
    if not found["cxx11_abi"]:
        return None, f"torch {found['version']} was built with the C++ ABI before C++11"
    return found, ""


def compile_libtorch_test(torch, installed, program):
    """Our archives' symbols stay their own: torch brings another CUDA runtime."""
    archives = [installed / "lib" / "libmillrace.a", *sorted((installed / "lib" / "millrace").glob("*.a"))]
    includes = [installed / "include", *torch["include"], *torch["cuda"][:1]]
    command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-fPIC", "-o", str(program),
               str(ROOT / "tests" / "gpu" / "libtorch" / "dlpack_test.cpp"), *[f"-isystem{path}" for path in includes], *map(str, archives),
               "-Wl,--exclude-libs,ALL", f"-L{torch['lib']}", f"-Wl,-rpath,{torch['lib']}", "-Wl,--no-as-needed",
               "-ltorch", "-ltorch_cpu", "-ltorch_cuda", "-lc10", "-lc10_cuda", "-lpthread", "-ldl", "-lrt"]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL)


def run(installed, folder):
    """What became of each: suite, test, result, the first line of why."""
    def all_of(result, why):
        return [{"suite": "LibTorch", "test": "(all)", "result": result, "why": why}]
    if not (installed / "lib" / "libmillrace.a").exists():
        return all_of("not checked", f"no Millrace is installed in {installed}: make gpu-test, or cmake --install build/dev "
                                     f"--component library --prefix {installed}")
    torch, why_not = torch_paths()
    if not torch:
        return all_of("not checked", why_not)
    program = folder / "libtorch_test"
    try:
        compiled = compile_libtorch_test(torch, installed, program)
    except (OSError, subprocess.TimeoutExpired) as error:
        return all_of("not checked", f"no compiler: {error}")
    if compiled.returncode != 0:
        errors = [line for line in compiled.stderr.splitlines() if "error" in line or "undefined" in line]
        print(compiled.stderr[-4000:])
        return all_of("failed", f"torch {torch['version']}: does not compile: {(errors or ['?'])[0]}")
    done = subprocess.run([program, ROOT / "tests" / "models" / "average.onnx", folder / "cache"], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    sys.stdout.write(done.stdout)
    results = []
    for line in done.stdout.splitlines():
        for result in ("ran", "failed", "not checked"):
            if line.startswith(result + " "):
                test, _, why = line.removeprefix(result + " ").partition(": ")
                results.append({"suite": "LibTorch", "test": test, "result": result, "why": why})
    if done.returncode != 0 and not any(result["result"] == "failed" for result in results):
        results += all_of("failed", f"ended with {done.returncode}")
    return results or all_of("failed", "it said nothing")
