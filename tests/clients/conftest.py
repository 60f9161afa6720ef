"""Servers of the fixture models for the clients of other projects: `millrace serve`, and the conformance suite's small
server, on which these tests are tried themselves.

These tests run in the Python environment .deps/clients; tests/python/test_clients.py runs them from there.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests" / "conformance" / "oip"
BINARY = Path(os.environ.get("MILLRACE_BIN", ROOT / "build" / "dev" / "bin" / "millrace"))
MODEL_PYTHON = ROOT / ".deps" / "venv" / "bin" / "python"  # has the package onnx
START_S = 120

sys.path.insert(0, str(SUITE))


@dataclasses.dataclass
class Server:
    name: str
    http: str  # HOST:PORT
    grpc: str


def has_serve():
    if not BINARY.exists():
        return False
    return subprocess.run([BINARY, "serve", "--help"], capture_output=True).returncode == 0


def write_models(folder):
    subprocess.run([MODEL_PYTHON, "-m", "oip_conformance.fixtures", folder], cwd=SUITE, check=True)
    return folder


def small_server():
    process = subprocess.Popen([sys.executable, SUITE / "tests" / "good_server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, env=os.environ | {"PYTHONPATH": str(SUITE)})
    ports = json.loads(process.stdout.readline())
    return process, Server("the small server", f"127.0.0.1:{ports['http']}", f"127.0.0.1:{ports['grpc']}")


def millrace(folder, *options):
    log = open(folder / "serve.log", "w")
    process = subprocess.Popen(
        [BINARY, "serve", folder / "models", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *options],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    deadline = time.monotonic() + START_S
    found = None
    while not found and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        found = re.search(r"serves http://(\S+) grpc://(\S+)", (folder / "serve.log").read_text())
    assert found, f"millrace serve ended with {process.poll()}: {(folder / 'serve.log').read_text()}"
    return process, Server("millrace", found[1], found[2])


@pytest.fixture
def gpu():
    """GPU 0; the small server has none of its own to use it with."""
    from cuda.bindings import runtime
    (error,) = runtime.cudaSetDevice(0)
    if error != runtime.cudaError_t.cudaSuccess:
        pytest.skip(f"NOT CHECKED: needs a GPU: {error.name}")
    return 0


@pytest.fixture(scope="session", params=["millrace", "small"])
def server(request, tmp_path_factory):
    if request.param == "millrace" and not has_serve():
        pytest.skip(f"NOT CHECKED: {BINARY} has no verb serve; build the target millrace")
    if request.param == "small":
        process, made = small_server()
    else:
        folder = tmp_path_factory.mktemp("serve")
        write_models(folder / "models")
        process, made = millrace(folder, "--mode", "explicit", "--load", "*", "--allow-repository-control", "--allow-client-shm",
                                 "--allow-settings")
    yield made
    process.terminate()
    process.wait(timeout=60)
