"""The script that runs the GPU suites: what it makes of programs that end well, badly, or not at all."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "build" / "dev" / "bin" / "base_test"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_run", ROOT / "tests" / "gpu" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def program(tmp_path):
    def write(text):
        path = tmp_path / "gpu_suite"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path
    return write


def named(results):
    return {f"{result['suite']}.{result['test']}": result["result"] for result in results}


def test_processes_share_the_tests_out(script, tmp_path):
    listed = subprocess.run([SUITE, "--gtest_list_tests", "--gtest_filter=*Text*"], capture_output=True, text=True, check=True).stdout
    tests = sum(line.startswith("  ") for line in listed.splitlines())
    assert tests > 3
    results = script.run(SUITE, "*Text*", tmp_path, jobs=3)
    assert len(results) == tests
    assert {result["result"] for result in results} == {"ran"}


def test_after_the_limit_the_rest_is_not_checked(script, program, tmp_path):
    slow = program("echo '[ RUN      ] A.One'; echo '[       OK ] A.One (3 ms)'; echo '[ RUN      ] A.Two'; exec sleep 600")
    results = script.run(slow, "*", tmp_path, limit=1)
    assert named(results) == {"A.One": "ran", "A.Two": "not checked"}
    assert results[1]["why"] == "ended at the limit of time"


def test_a_test_that_ends_the_process_has_failed(script, program, tmp_path):
    bad = program("echo '[ RUN      ] A.One'; echo '[  FAILED  ] A.One (3 ms)'; echo '[ RUN      ] A/B.Two/3'; exit 7")
    results = script.run(bad, "*", tmp_path)
    assert named(results) == {"A.One": "failed", "A/B.Two/3": "failed"}
    assert results[1]["why"] == "ended with 7"


def test_a_process_that_ends_between_tests_has_failed(script, program, tmp_path):
    results = script.run(program("echo '[ RUN      ] A.One'; echo '[  SKIPPED ] A.One (0 ms)'; exit 1"), "*", tmp_path)
    assert named(results) == {"A.One": "not checked", "gpu_suite.(the rest)": "failed"}


@pytest.mark.parametrize("lines, result, why", [
    (["========= COMPUTE-SANITIZER", "========= ERROR SUMMARY: 0 errors"], "ran", "ERROR SUMMARY: 0 errors"),
    (["========= COMPUTE-SANITIZER", "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"], "ran", "0 hazards"),
    (["========= COMPUTE-SANITIZER", "========= Invalid __global__ read of size 4 bytes", "========= ERROR SUMMARY: 10 errors"],
     "failed", "10 errors"),
    (["========= COMPUTE-SANITIZER", "========= Invalid __global__ read of size 4 bytes"], "failed", "Invalid __global__ read"),
    (["========= COMPUTE-SANITIZER"], "not checked", "no summary"),
    ([], "not checked", "no summary"),
])
def test_what_a_tool_found(script, tmp_path, lines, result, why):
    log = tmp_path / "memcheck.0.log"
    if lines:
        log.write_text("\n".join(lines) + "\n")
    found = script.found_by("memcheck", 0, log, tmp_path / "gpu_suite")
    assert found["result"] == result
    assert why in found["why"]


def test_the_protocol_is_checked_against_a_server(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_TORCH_PYTHON", sys.executable)
    results = script.conformance.run(SUITE.parent, tmp_path, devices="host", on_gpu=[])
    assert sum(result["result"] == "ran" for result in results) > 200
    assert [result for result in results if result["result"] == "failed"] == []


def test_a_model_that_is_not_served_has_failed(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_TORCH_PYTHON", sys.executable)
    results = script.conformance.run(SUITE.parent, tmp_path, devices="host", on_gpu=["transpose"])  # there is no GPU
    assert named(results)["Conformance.transpose is served"] == "failed"


def test_without_what_writes_the_models_nothing_is_checked(script, tmp_path, monkeypatch):
    monkeypatch.setenv("MILLRACE_TORCH_PYTHON", "/nonexistent/python")
    (result,) = script.conformance.run(SUITE.parent, tmp_path)
    assert result["result"] == "not checked"
