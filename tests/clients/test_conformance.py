"""Millrace passes the conformance suite, and with one fault planted before it, it does not."""

import sys

import pytest

from conftest import SUITE

sys.path.insert(0, str(SUITE / "tests"))
from faulty_proxy import FAULTS, FaultyProxy  # noqa: E402
from oip_conformance.client import Client  # noqa: E402
from oip_conformance.registry import CHECKS  # noqa: E402
from oip_conformance.runner import FAIL, FEATURES, SKIP, Runner  # noqa: E402

NEED_A_GPU = {"http.cuda.register", "http.cuda.infer", "grpc.cuda.infer"}


# The suite's own tests run against the small server.
pytestmark = pytest.mark.parametrize("server", ["millrace"], indirect=True, scope="session")


def run(http, grpc, only=None):
    client = Client(http, grpc)
    runner = Runner(client, expected=FEATURES)
    try:
        return {check.id: runner.run(check) for check in runner.select(only)}
    finally:
        client.close()


def test_millrace_passes_all_of_it(server):
    results = run(server.http, server.grpc)
    assert [f"{name}: expected {result.expected}, found {result.found}" for name, result in results.items() if result.outcome == FAIL] == []
    assert {name for name, result in results.items() if result.outcome == SKIP} <= NEED_A_GPU
    assert len(results) == len(CHECKS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_before_it_is_found(server, name):
    proxy = FaultyProxy(int(server.http.rpartition(":")[2]), int(server.grpc.rpartition(":")[2]), FAULTS[name])
    try:
        results = run(f"127.0.0.1:{proxy.http}", f"127.0.0.1:{proxy.grpc}", FAULTS[name].checks)
    finally:
        proxy.close()
    assert {check: results[check].outcome for check in FAULTS[name].checks} == dict.fromkeys(FAULTS[name].checks, FAIL)
