"""The suite passes a good server, and finds each fault by the checks meant for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from faulty_proxy import FAULTS, NO, YES, Fault, FaultyProxy
from good_server import GoodServer
from oip_conformance.client import Client
from oip_conformance.registry import CHECKS
from oip_conformance.runner import FAIL, PASS, SKIP, Runner

PACKAGE = Path(__file__).resolve().parents[1]
WITHOUT_GPU = {"http.cuda.register", "http.cuda.infer", "grpc.cuda.infer"}


@pytest.fixture(scope="module")
def server():
    made = GoodServer()
    yield made
    made.close()


def run(proxy, only=None):
    client = Client(f"127.0.0.1:{proxy.http}", f"127.0.0.1:{proxy.grpc}")
    runner = Runner(client)
    try:
        return {check.id: runner.run(check) for check in runner.select(only)}
    finally:
        client.close()


def problems(results):
    return [f"{name}: expected {result.expected}, found {result.found}" for name, result in results.items() if result.outcome == FAIL]


@pytest.mark.parametrize("through_proxy", [False, True], ids=["directly", "through the proxy"])
def test_a_good_server_passes(server, through_proxy):
    proxy = FaultyProxy(server.http, server.grpc, Fault("none", [])) if through_proxy else None
    try:
        results = run(proxy or server)
    finally:
        if proxy:
            proxy.close()
    assert problems(results) == []
    assert {name for name, result in results.items() if result.outcome == SKIP} <= WITHOUT_GPU
    assert len(results) == len(CHECKS) > 350


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(server, name):
    fault = FAULTS[name]
    proxy = FaultyProxy(server.http, server.grpc, fault)
    try:
        results = {check: result for check, result in run(proxy, fault.checks).items() if check in fault.checks}
    finally:
        proxy.close()
    assert set(results) == set(fault.checks)
    assert {check: result.outcome for check, result in results.items()} == dict.fromkeys(fault.checks, FAIL)
    for result in results.values():
        assert result.expected and result.found and "Error:" not in result.found, result


def passing(server, fault):
    """The checks that pass before a proxy with this fault, whatever the server has."""
    proxy = FaultyProxy(server.http, server.grpc, fault)
    client = Client(f"127.0.0.1:{proxy.http}", f"127.0.0.1:{proxy.grpc}", timeout=10)
    passed = set()
    try:
        for check in CHECKS.values():
            try:
                check.run(client)
                passed.add(check.id)
            except Exception:
                pass
            client.leftovers.clear()
    finally:
        client.close()
        proxy.close()
    return passed


def test_no_check_passes_whatever_the_server_does(server):
    assert passing(server, YES) & passing(server, NO) == set()


def test_there_are_enough_faults():
    assert sum(name.startswith("grpc_") for name in FAULTS) >= 20
    assert sum(not name.startswith("grpc_") for name in FAULTS) >= 40
    checked = {check for fault in FAULTS.values() for check in fault.checks}
    assert checked <= set(CHECKS)
    # Every part of the report has a fault that it finds.
    assert {check.group for check in CHECKS.values()} - {CHECKS[name].group for name in checked} == {"CUDA shared memory"}


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "oip_conformance", *map(str, arguments)], cwd=PACKAGE, capture_output=True, text=True,
                          timeout=300)


def test_the_command_reports(server, tmp_path):
    done = command("--http", f"http://127.0.0.1:{server.http}", "--check", "http.health", "--report", tmp_path / "report.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"][FAIL] == 0 and report["counts"][PASS] == len(report["checks"]) > 5
    assert {"id", "section", "requirement", "level", "outcome"} <= set(report["checks"][0])


def test_the_command_fails_with_what_it_found(server):
    proxy = FaultyProxy(server.http, server.grpc, FAULTS["live_without_body"])
    try:
        done = command("--http", f"127.0.0.1:{proxy.http}", "--check", "http.health.live")
    finally:
        proxy.close()
    assert done.returncode == 1
    assert "FAIL" in done.stdout and "http.health.live.body" in done.stdout and "a body of JSON" in done.stdout


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_without_a_server_nothing_is_checked(option):
    done = command(option, "127.0.0.1:9", "--timeout", 1)
    assert done.returncode == 2 and "127.0.0.1:9" in done.stderr and done.stdout == ""


def test_wrong_usage_is_told():
    assert command().returncode == 2
    assert "known: all" in command("--http", "127.0.0.1:9", "--expect", "flying").stderr


def test_the_package_installs_with_all_that_it_reads(server, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__", "tests", "other_servers"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", tmp_path / "installed", tmp_path / "source"], check=True)
    done = subprocess.run([tmp_path / "installed" / "bin" / "oip-conformance", "--grpc", f"127.0.0.1:{server.grpc}", "--check", "grpc.infer"],
                          env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_expected_features_must_be_there(server):
    done = command("--http", f"127.0.0.1:{server.http}", "--check", "http.raw", "--expect", "all", "--verbose")
    assert done.returncode == 0 and "PASS" in done.stdout
    done = command("--http", f"127.0.0.1:{server.http}", "--check", "http.raw", "--without", "binary_tensor_data", "--verbose")
    assert done.returncode == 0 and "NOT APPLICABLE" in done.stdout
