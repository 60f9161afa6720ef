"""Runs the tests that need the clients of other projects, in their Python environment (.deps/clients)."""

import subprocess

import pytest

from cli_helpers import ROOT

PYTHON = ROOT / ".deps" / "clients" / "bin" / "python"
SUITES = ["tests/clients/test_triton_http.py", "tests/clients/test_triton_grpc.py", "tests/clients/test_kserve.py",
          "tests/clients/test_traces.py", "tests/clients/test_metrics.py", "tests/clients/test_access_log.py", "tests/clients/test_openapi.py",
          "tests/clients/test_conformance.py", "tests/clients/test_serving_runtime.py", "tests/conformance/oip/tests"]
TIMEOUT_S = 900


@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite):
    """Each in a process of its own: two of the clients describe the same protocol, and one process takes only one of them."""
    if not PYTHON.exists():
        pytest.skip(f"NOT CHECKED: {suite}: no {PYTHON.relative_to(ROOT)}; tools/deps/fetch.py clients")
    done = subprocess.run([PYTHON, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", suite], cwd=ROOT, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
