"""oip-conformance against a server of ours whose fixture models are on a GPU, where its engine can run them.

Needs Python's package onnx (MILLRACE_TORCH_PYTHON, else python3), which writes the models; with grpcio, grpcio-tools and
protobuf the checks over gRPC run too.
"""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

SUITE = Path(__file__).resolve().parents[1] / "conformance" / "oip"
ON_GPU = ["add_sub", "classify", "transpose"]  # of fixed shapes and types that a GPU has; transpose has no batches
START_S = 300
OPTIONS = ["--mode", "explicit", "--load", "*", "--allow-repository-control", "--allow-client-shm", "--allow-settings"]


def said(test, result, why=""):
    return {"suite": "Conformance", "test": test, "result": result, "why": why}


def written(python, folder, on_gpu):
    """Why the models could not be written; empty: they were."""
    command = [python, "-m", "oip_conformance.fixtures", folder, *(word for name in on_gpu for word in ("--gpu", name))]
    try:
        done = subprocess.run(command, cwd=SUITE, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{python}: {error}"
    return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1] if done.returncode else ""


def addresses(process, log):
    """Where the server listens, over HTTP and gRPC; nothing if it does not."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        time.sleep(0.1)
        if found := re.search(r"serves (http://\S+) grpc://(\S+)", log.read_text()):
            return found.groups()
    return None


def served(http, models):
    """Whether each of the models is: checks of one that is not would be passed over."""
    for name in models:
        try:
            with urllib.request.urlopen(f"{http}/v2/models/{name}/ready", timeout=30):
                yield said(f"{name} is served", "ran")
        except OSError as error:
            yield said(f"{name} is served", "failed", str(error))


def checked(python, http, grpc, report):
    """The outcome of every check."""
    has_grpc = subprocess.run([python, "-c", "import grpc, grpc_tools, google.protobuf"], capture_output=True, stdin=subprocess.DEVNULL)
    command = [python, "-m", "oip_conformance", "--http", http, *(["--grpc", grpc] if has_grpc.returncode == 0 else []),
               "--expect", "cuda_shared_memory", "--report", report]
    done = subprocess.run(command, cwd=SUITE, stdin=subprocess.DEVNULL)
    if not report.exists():
        return [said("(all)", "failed", f"ended with {done.returncode}")]
    kinds = {"pass": "ran", "fail": "failed", "not applicable": "not checked"}
    return [said(check["id"], kinds[check["outcome"]], check.get("reason") or (
                f"expected {check.get('expected')}, found {check.get('found')}" if check["outcome"] == "fail" else ""))
            for check in json.loads(report.read_text())["checks"]]


def run(bin_folder, folder, devices="0,host", on_gpu=ON_GPU):
    """The results, in the form of tests/gpu/run.py."""
    python = os.environ.get("MILLRACE_TORCH_PYTHON", "python3")
    models, log = folder / "conformance_models", folder / "conformance.log"
    if why := written(python, models, on_gpu):
        return [said("(all)", "not checked", f"the models need the package onnx: {why}")]
    command = [bin_folder / "millrace", "serve", models, "--devices", devices, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0",
               *OPTIONS]
    with log.open("w") as text:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=text, stderr=subprocess.STDOUT)
    try:
        found = addresses(process, log)
        if not found:
            return [said("(all)", "failed", f"the server does not serve: {log.read_text()[-2000:]}")]
        return [*served(found[0], on_gpu), *checked(python, *found, folder / "conformance.json")]
    finally:
        process.terminate()
        process.wait(timeout=120)
