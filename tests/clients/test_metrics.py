"""The metrics: the page is what Prometheus reads, says what happened, and docs/metrics.md describes all of it."""

import collections
import math
import re
import threading

import numpy as np
import pytest
import tritonclient.grpc
from prometheus_client.parser import text_string_to_metric_families

from serving import IDENTITY, ROOT, eventually, serving

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


def parse(text):
    """The families of a page as {name: (type, help, {(sample, labels): value})}; strict: each line, and the order of lines, is as the
    format (version 0.0.4) says, each family and each sample is there once, and counters and histograms are what they should be."""
    assert text.endswith("\n")
    families = {}
    current = None
    helped = None
    for line in text.splitlines():
        if match := re.fullmatch(rf"# HELP ({NAME}) ((?:[^\\]|\\\\|\\n)+)", line):
            assert helped is None, f"two HELP lines: {line}"
            helped = match.groups()
        elif match := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge|histogram)", line):
            assert helped and helped[0] == match[1], f"TYPE without its HELP: {line}"
            current, kind = match.groups()
            assert current not in families, f"twice: {current}"
            families[current] = (kind, helped[1], {})
            helped = None
        else:
            match = SAMPLE.fullmatch(line)
            assert match and helped is None, f"not a sample: {line!r}"
            kind, _, samples = families[current]
            assert match[1] in [current + suffix for suffix in SUFFIXES.get(kind, ("",))], f"{match[1]} among {current}"
            labels = re.findall(LABEL, match[2] or "")
            assert len({name for name, _ in labels}) == len(labels), line
            key = (match[1], tuple(sorted(labels)))
            assert key not in samples, f"twice: {line}"
            samples[key] = float(match.groups()[-1])
    assert helped is None
    for name, (kind, _, samples) in families.items():
        assert all(value >= 0 and math.isfinite(value) for value in samples.values()), name
        if kind == "histogram":
            check_histogram(name, samples)
    return families


def check_histogram(name, samples):
    rows = collections.defaultdict(list)
    for (sample, labels), value in samples.items():
        if sample == name + "_bucket":
            bound = float(dict(labels)["le"])
            rows[tuple(label for label in labels if label[0] != "le")].append((bound, value))
    for labels, buckets in rows.items():
        assert buckets == sorted(buckets), f"{name}: the bounds of {labels} do not rise"
        counts = [count for _, count in buckets]
        assert counts == sorted(counts), f"{name}: the buckets of {labels} do not add up"
        assert buckets[-1][0] == math.inf
        assert buckets[-1][1] == samples[(name + "_count", labels)], f"{name}: {labels}"
        assert (samples[(name + "_sum", labels)] > 0) == (counts[-1] > 0)
    assert len(samples) == sum(len(buckets) + 2 for buckets in rows.values())


def value(families, name, family=None, **labels):
    return families[family or name][2][(name, tuple(sorted(labels.items())))]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """After 20 requests of 2 items over HTTP, 10 over gRPC, 5 on a stream, and some that fail."""
    models = {"echo": IDENTITY, "broken": "reference:fail?type=FP32&shape=4&every=1"}
    with serving(tmp_path_factory.mktemp("metrics"), **models) as server:
        for _ in range(20):
            assert server.infer(rows=2)[0] == 200
        assert server.infer("broken")[0] == 500
        assert server.infer("nobody")[0] == 404
        assert server.infer(inputs=[{"name": "other", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}])[0] == 400
        assert server.request("GET", "/no/such/thing")[0] == 404
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}")
        given = tritonclient.grpc.InferInput("input", [1, 4], "FP32")
        given.set_data_from_numpy(np.zeros((1, 4), np.float32))
        for _ in range(10):
            client.infer("echo", [given])
        with pytest.raises(tritonclient.grpc.InferenceServerException):
            client.infer("nobody", [given])
        answers = []
        client.start_stream(lambda result, error: answers.append(error))
        for _ in range(5):
            client.async_stream_infer("echo", [given])
        eventually(lambda: len(answers) == 5)
        client.stop_stream()
        client.close()
        # A call over gRPC is counted when it is over, which may be after its answer.
        eventually(lambda: server.counter("millrace_requests_total", protocol="grpc") == 16)
        yield server.metrics()


def test_is_what_the_format_says(page):
    families = parse(page)
    assert len(families) > 40
    # A parser of another project reads the same; it gives counters the ending that they have in OpenMetrics.
    theirs = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
              for family in text_string_to_metric_families(page) for sample in family.samples}
    ours = {(name + "_total" if kind == "counter" and not name.endswith("_total") else name, labels): value
            for kind, _, samples in families.values() for (name, labels), value in samples.items()}
    assert theirs == ours


@pytest.mark.parametrize("bad", [
    "a 1\n", "# HELP a A\na 1\n", "# TYPE a counter\n", "# HELP a A\n# TYPE a counter\na 1",
    "# HELP a A\n# TYPE a counter\nb 1\n", "# HELP a A\n# TYPE a counter\na 1\na 2\n", '# HELP a A\n# TYPE a gauge\na{x="a"b"} 1\n',
    "# HELP a A\n# TYPE a counter\na -1\n", "# HELP a A\n# TYPE a counter\n# HELP a A\n# TYPE a counter\n", "# HELP a A\n# TYPE a gauge\na NaN\n",
    '# HELP a A\n# TYPE a histogram\na_bucket{le="1"} 2\na_bucket{le="+Inf"} 1\na_sum 1\na_count 1\n',
    '# HELP a A\n# TYPE a histogram\na_bucket{le="1"} 1\na_bucket{le="+Inf"} 2\na_sum 1\na_count 3\n',
])
def test_the_check_of_the_format_can_fail(bad):
    with pytest.raises((AssertionError, KeyError)):
        parse(bad)


def test_counts_what_happened(page):
    families = parse(page)
    echo = {"model": "echo", "version": "1"}
    assert value(families, "nv_inference_request_success", **echo) == 35
    assert value(families, "nv_inference_count", **echo) == 55
    assert 1 <= value(families, "nv_inference_exec_count", **echo) <= 35
    assert value(families, "nv_inference_request_failure", model="broken", version="1", reason="BACKEND") == 1
    assert value(families, "millrace_rejections_total", reason="invalid", **echo) == 1
    assert value(families, "millrace_requests_total", protocol="http", code="200") >= 20
    assert value(families, "millrace_requests_total", protocol="http", code="404") == 2
    assert value(families, "millrace_requests_total", protocol="http", code="500") == 1
    assert value(families, "millrace_requests_total", protocol="grpc", code="0") == 15
    assert value(families, "millrace_requests_total", protocol="grpc", code="5") == 1
    assert value(families, "millrace_device_items_total", device="host:0", **echo) == 55
    assert value(families, "millrace_lanes", device="host:0", **echo) == 1
    assert value(families, "millrace_batch_items_sum", "millrace_batch_items", **echo) == 55
    assert value(families, "millrace_ready") == 1
    assert value(families, "process_resident_memory_bytes") > 1e6


def test_times_every_phase_of_every_request_over_both_protocols(page):
    families = parse(page)
    for phase in ("queue", "stage", "copy_in", "compute", "copy_out", "complete", "total", "send"):
        labels = {"model": "echo", "version": "1", "phase": phase}
        assert value(families, "millrace_phase_seconds_count", "millrace_phase_seconds", **labels) == 35, phase
        assert 0 < value(families, "millrace_phase_seconds_sum", "millrace_phase_seconds", **labels) < 3600, phase


def test_the_well_known_names_are_there_for_dashboards(page):
    families = parse(page)
    counters = {f"nv_inference_{name}" for name in (
        "request_success", "request_failure", "count", "exec_count", "request_duration_us", "queue_duration_us", "compute_input_duration_us",
        "compute_infer_duration_us", "compute_output_duration_us")} | {"nv_energy_consumption"}
    gauges = {"nv_inference_pending_request_count"} | {f"nv_gpu_{name}" for name in (
        "utilization", "memory_total_bytes", "memory_used_bytes", "power_usage", "power_limit")}
    assert {name for name, (kind, _, _) in families.items() if name.startswith("nv_") and kind == "counter"} == counters
    assert {name for name, (kind, _, _) in families.items() if name.startswith("nv_") and kind == "gauge"} == gauges
    for name in counters | gauges:
        for _, labels in families[name][2]:
            assert {"model", "version"} <= {label for label, _ in labels} or {label for label, _ in labels} == {"gpu_uuid"}, name


def test_says_how_much_is_under_way(tmp_path):
    """Two batches of a model of two lanes run, and requests wait: seen from outside."""
    with serving(tmp_path, slow="reference:busy?type=FP32&shape=4&batch_us=500000&lanes=2") as server:
        threads = [threading.Thread(target=server.infer, args=("slow",), kwargs={"rows": 8}) for _ in range(12)]
        for thread in threads:
            thread.start()

        def busy():
            families = parse(server.metrics())
            slow = {"model": "slow", "version": "1"}
            return (value(families, "millrace_lanes_busy", **slow) == 2 and value(families, "millrace_batches_running", **slow) > 2
                    and value(families, "millrace_queue_requests", **slow) > 0 and value(families, "millrace_queue_bytes", **slow) > 0
                    and value(families, "millrace_bytes_in_flight", protocol="http") >= 0
                    and value(families, "millrace_http_connections") >= 12)
        eventually(busy, "two busy lanes")
        for thread in threads:
            thread.join()
        assert value(parse(server.metrics()), "millrace_lanes_busy", model="slow", version="1") == 0


def test_what_is_turned_away_is_counted_by_reason(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    with serving(tmp_path, "--token-file", tokens, "--max-request", 4096) as server:
        assert server.infer()[0] == 401
        secret = {"Authorization": "Bearer secret"}
        assert server.request("POST", "/v2/models/echo/infer", b"x" * 5000, secret)[0] == 413
        _, _, body = server.request("GET", "/metrics", headers=secret)
        families = parse(body.decode())
        assert value(families, "millrace_refusals_total", protocol="http", reason="token") == 1
        assert value(families, "millrace_refusals_total", protocol="http", reason="too_large") == 1
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}")
        given = tritonclient.grpc.InferInput("input", [1, 4], "FP32")
        given.set_data_from_numpy(np.zeros((1, 4), np.float32))
        with pytest.raises(tritonclient.grpc.InferenceServerException):
            client.infer("echo", [given])
        client.close()

        def counted():
            _, _, text = server.request("GET", "/metrics", headers=secret)
            return value(parse(text.decode()), "millrace_refusals_total", protocol="grpc", reason="token") == 1
        eventually(counted)


def test_every_metric_is_described(page):
    """docs/metrics.md: a table row for each family, with its type and its labels, and no others."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    described = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(described) == len(rows)
    families = parse(page)
    assert set(described) == set(families)
    for name, (kind, _, samples) in families.items():
        assert described[name][0] == kind, name
        for _, labels in samples:
            assert {label for label, _ in labels} - {"le"} == described[name][1], name
