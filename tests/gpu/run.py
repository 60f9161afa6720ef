#!/usr/bin/env python3
"""Runs the GPU suites on a machine with GPUs, and says how many tests ran, failed and were NOT CHECKED.

    tests/gpu/run.py [--bin build/dev/bin] [--installed build/gpu/installed] [--report gpu-report.json] [--filter PATTERN] [--sanitize]

Needs what was built, a driver and a GPU; no network. MILLRACE_TENSORRT names the folder of TensorRT's libraries. The tests
with LibTorch are compiled here, where a Python that has torch (MILLRACE_TORCH_PYTHON, else python3) and a C++ compiler (CXX,
else g++) are found, against the Millrace in --installed. Exit code 0 when at least one test ran and none failed. With --sanitize the suites run under compute-sanitizer instead: memcheck all that can,
racecheck those of our own kernels. Standard library only.
"""

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from libtorch import suite as libtorch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SUITES = ["gpu_suite"]
# The watch is a tool itself, of which a process has but one; what ends a process on purpose is an error to the sanitizer.
UNDER_A_TOOL = "-SyncWatch*:*SteadyState*:*Fault*"
TOOLS = {"memcheck": "*", "racecheck": "Cuda/*:PluginKernels*:*Kernel*:*Gather*"}  # racecheck: of kernels that are ours


def run(program, pattern, folder, tool=()):
    """The results of one suite: name, what became of it, the first line of why."""
    output = folder / f"{program.name}.json"
    command = [*tool, program, f"--gtest_output=json:{output}", f"--gtest_filter={pattern}", "--gtest_brief=1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    sys.stdout.write(done.stdout)
    if not output.exists():  # it died before it could say
        return [{"suite": program.name, "test": "(all)", "result": "failed", "why": f"ended with {done.returncode}"}]
    results = []
    for suite in json.loads(output.read_text())["testsuites"]:
        for test in suite["testsuite"]:
            if test.get("status") == "NOTRUN":  # of those, others run in a process of their own
                continue
            why = next((entry.get("failure", "") or entry.get("message", "")
                        for entry in test.get("failures", []) + test.get("skipped", [])), "")
            skipped = test["result"] == "SKIPPED"
            result = "failed" if test.get("failures") else "not checked" if skipped else "ran"
            results.append({"suite": suite["name"], "test": test["name"], "result": result, "why": why.strip()})
    return results


def sanitized(program, pattern, folder):
    """The same under each of compute-sanitizer's tools, and for each whether it found anything."""
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    results = []
    for name, suites in TOOLS.items():
        def said(result, why):
            return {"suite": program.name, "test": f"({name})", "result": result, "why": why}
        if not found:
            results.append(said("not checked", "compute-sanitizer was not found"))
            continue
        log = folder / f"{name}.log"
        tool = [found, f"--tool={name}", f"--log-file={log}", "--require-cuda-init=no"]
        # What a program asks for and is refused is no error here: the tests provoke it.
        tool += ["--report-api-errors=no"] if name == "memcheck" else []
        tests = run(program, (pattern if pattern != "*" else suites) + UNDER_A_TOOL, folder, tool)
        (folder / f"{program.name}.json").unlink(missing_ok=True)
        results += [{**result, "suite": f"{name}: {result['suite']}"} for result in tests]
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
        print("\n".join(lines[-60:]))
        if not summary:
            results.append(said("not checked", f"{name} refused to run: {lines[-1] if lines else 'it said nothing'}"))
        else:
            clean = "0 errors" in summary or " 0 hazards" in summary
            results.append(said("ran" if clean else "failed", summary.strip("= ")))
    return results


def run_variants(bin_folder, folder):
    """The results of tests/gpu/variants.py, in the same form."""
    output = folder / "variants.json"
    script = Path(__file__).with_name("variants.py")
    done = subprocess.run([sys.executable, script, "run", "--bin", bin_folder, "--report", output], stdin=subprocess.DEVNULL)
    if not output.exists():
        return [{"suite": "variants", "test": "(all)", "result": "failed", "why": f"ended with {done.returncode}"}]
    return json.loads(output.read_text())


def machine():
    query = ["nvidia-smi", "--query-gpu=name,uuid,driver_version,memory.total", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired):
        gpus = []
    return {"gpus": gpus, "cores": len(os.sched_getaffinity(0))}


def main():
    parser = argparse.ArgumentParser(description="Runs the GPU suites and counts.")
    parser.add_argument("--bin", type=Path, default=Path("build/dev/bin"), help="where the suites are (default: %(default)s)")
    parser.add_argument("--installed", type=Path, default=ROOT / "build" / "gpu" / "installed",
                        help="Millrace for the tests with LibTorch (default: %(default)s)")
    parser.add_argument("--report", type=Path, default=Path("build/gpu-report.json"), help="default: %(default)s")
    parser.add_argument("--filter", default="*", help="as for GoogleTest")
    parser.add_argument("--sanitize", action="store_true", help="under compute-sanitizer")
    options = parser.parse_args()
    results = []
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as the program does: TensorRT's builder comes up much sooner
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MILLRACE_GPU_TEST_CACHE", str(Path(folder) / "engines"))
        for name in SUITES:
            program = (options.bin / name).resolve()
            if not program.exists():
                sys.exit(f"gpu-test: {program} is not there; build it first (make gpu-test does)")
            results += (sanitized if options.sanitize else run)(program, options.filter, Path(folder))
        if options.filter == "*" and not options.sanitize:
            results += run_variants(options.bin, Path(folder))
        if not options.sanitize and fnmatch.fnmatch("LibTorch.dlpack", options.filter):
            results += libtorch.run(options.installed.resolve(), Path(folder))
    options.report.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
    counts = {kind: sum(result["result"] == kind for result in results) for kind in ("ran", "failed", "not checked")}
    for result in results:
        if result["result"] == "not checked":
            print(f"NOT CHECKED: {result['suite']}.{result['test']}: {result['why'].splitlines()[0] if result['why'] else ''}")
    ran = counts["ran"] + counts["failed"]
    print(f"gpu-test: {ran} run, {counts['failed']} failed, {counts['not checked']} NOT CHECKED; report in {options.report}")
    if ran == 0:
        sys.exit("gpu-test: nothing was checked, which is a failure")
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
