#!/usr/bin/env python3
"""Runs the GPU suites on a machine with GPUs, and says how many tests ran, failed and were NOT CHECKED.

    tests/gpu/run.py [--bin build/dev/bin] [--installed build/gpu/installed] [--report gpu-report.json] [--filter PATTERN]
                     [--sanitize] [--jobs N] [--limit SECONDS]

Needs what was built, a driver and a GPU; no network. MILLRACE_TENSORRT names the folder of TensorRT's libraries. The tests
with LibTorch are compiled here, where a Python that has torch (MILLRACE_TORCH_PYTHON, else python3) and a C++ compiler (CXX,
else g++) are found, against the Millrace in --installed. Exit code 0 when at least one test ran and none failed. With --sanitize
the suites run under compute-sanitizer instead: memcheck all that can, racecheck those of our own kernels. TensorRT takes minutes
to come up under it: --jobs shares the tests out to N processes, and what has not run after --limit seconds of a tool is NOT
CHECKED. Standard library only.
"""

import argparse
import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import conformance  # noqa: E402
from libtorch import suite as libtorch  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SUITES = ["gpu_suite"]
# The watch is a tool itself, of which a process has but one; what ends a process on purpose is an error to the sanitizer.
UNDER_A_TOOL = "-SyncWatch*:*SteadyState*:*Fault*"
TOOLS = {"memcheck": "*", "racecheck": "Cuda/*:PluginKernels*:*Kernel*:*Gather*"}  # racecheck: of kernels that are ours


def of_json(text):
    """The results in a report of GoogleTest: suite, test, what became of it, the first line of why."""
    results = []
    for suite in json.loads(text)["testsuites"]:
        for test in suite["testsuite"]:
            if test.get("status") == "NOTRUN":  # of those, others run in a process of their own
                continue
            why = next((entry.get("failure", "") or entry.get("message", "")
                        for entry in test.get("failures", []) + test.get("skipped", [])), "")
            skipped = test["result"] == "SKIPPED"
            result = "failed" if test.get("failures") else "not checked" if skipped else "ran"
            results.append({"suite": suite["name"], "test": test["name"], "result": result, "why": why.strip()})
    return results


def of_lines(program, text, ended):
    """The same from what a process had printed before it ended as `ended` says, without a report."""
    results, open_test = [], None
    kinds = {"       OK ": "ran", "  FAILED  ": "failed", "  SKIPPED ": "not checked"}
    for mark, name in re.findall(r"^\[( RUN      |       OK |  FAILED  |  SKIPPED )\] (\S+\.\S+?),?(?: .*)?$", text, re.MULTILINE):
        if mark == " RUN      ":
            open_test = name
        elif name == open_test:
            suite, _, test = name.partition(".")
            results.append({"suite": suite, "test": test, "result": kinds[mark], "why": "" if mark == "       OK " else "see above"})
            open_test = None
    suite, _, test = (open_test or f"{program.name}.(the rest)").partition(".")
    late = ended == "at the limit of time"
    return results + [{"suite": suite, "test": test, "result": "not checked" if late else "failed", "why": f"ended {ended}"}]


def run(program, pattern, folder, tool=(), jobs=1, limit=None):
    """The results of one suite, in `jobs` processes that share the tests out. After `limit` seconds the rest is not checked.
    In the tool's words {job} is the process's number."""
    parts = []
    for job in range(jobs):
        output, said = folder / f"{program.name}.{job}.json", folder / f"{program.name}.{job}.txt"
        command = [*(word.format(job=job) for word in tool), program, f"--gtest_output=json:{output}", f"--gtest_filter={pattern}"]
        environment = {**os.environ, "GTEST_TOTAL_SHARDS": str(jobs), "GTEST_SHARD_INDEX": str(job)}
        with said.open("w") as text:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=text, stderr=subprocess.STDOUT, env=environment,
                                       start_new_session=True)
        parts.append((process, output, said))
    results, until = [], None if limit is None else time.monotonic() + limit
    for process, output, said in parts:
        try:
            ended = f"with {process.wait(None if until is None else max(0.0, until - time.monotonic()))}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = "at the limit of time"
        text = said.read_text(errors="replace")
        sys.stdout.write("".join(line for line in text.splitlines(keepends=True)
                                 if not re.match(r"\[( RUN      |       OK |----------|==========)\]|$", line)))
        results += of_json(output.read_text()) if output.exists() else of_lines(program, text, ended)
        output.unlink(missing_ok=True)
    return results


def sanitized(program, pattern, folder, jobs, limit):
    """The same under each of compute-sanitizer's tools, and for each whether it found anything."""
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    results = []
    for name, suites in TOOLS.items():
        if not found:
            results.append({"suite": program.name, "test": f"({name})", "result": "not checked", "why": "compute-sanitizer was not found"})
            continue
        tool = [found, f"--tool={name}", f"--log-file={folder / name}.{{job}}.log", "--require-cuda-init=no"]
        # What a program asks for and is refused is no error here: the tests provoke it.
        tool += ["--report-api-errors=no"] if name == "memcheck" else []
        tests = run(program, (pattern if pattern != "*" else suites) + UNDER_A_TOOL, folder, tool, jobs, limit)
        results += [{**result, "suite": f"{name}: {result['suite']}"} for result in tests]
        for job in range(jobs):
            results.append(found_by(name, job, folder / f"{name}.{job}.log", program))
    return results


def found_by(name, job, log, program):
    """What one process of a tool found, from its log."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    findings = [line for line in lines if not re.search(r"SUMMARY|COMPUTE-SANITIZER$", line) and line.strip("= ")]
    summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
    print("\n".join(findings[-60:]))
    said = {"suite": program.name, "test": f"({name}, process {job})"}
    if findings and not summary:
        return {**said, "result": "failed", "why": findings[0].strip("= ")}
    if not summary:
        return {**said, "result": "not checked", "why": f"{name} gave no summary: ended before, or refused to run"}
    clean = re.search(r"SUMMARY: 0 (errors|hazards)\b", summary)
    return {**said, "result": "ran" if clean else "failed", "why": summary.strip("= ")}


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
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the tests out (default: %(default)s)")
    parser.add_argument("--limit", type=float, help="seconds for each tool, or for all tests (default: none)")
    options = parser.parse_args()
    results = []
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as the program does: TensorRT's builder comes up much sooner
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MILLRACE_GPU_TEST_CACHE", str(Path(folder) / "engines"))
        for name in SUITES:
            program = (options.bin / name).resolve()
            if not program.exists():
                sys.exit(f"gpu-test: {program} is not there; build it first (make gpu-test does)")
            if options.sanitize:
                results += sanitized(program, options.filter, Path(folder), options.jobs, options.limit)
            else:
                results += run(program, options.filter, Path(folder), jobs=options.jobs, limit=options.limit)
        if options.filter == "*" and not options.sanitize:
            results += run_variants(options.bin, Path(folder))
        if not options.sanitize and fnmatch.fnmatch("LibTorch.dlpack", options.filter):
            results += libtorch.run(options.installed.resolve(), Path(folder))
        if not options.sanitize and fnmatch.fnmatch("Conformance.oip", options.filter):
            results += conformance.run(options.bin.resolve(), Path(folder))
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
