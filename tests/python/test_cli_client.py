"""millrace client and millrace bench --url, against millrace serve and against a server that does nothing."""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from cli_helpers import BINARY, DIGITS, LATENCY, NUMBER, ROOT, as_json, check_schema, fails, held_out, millrace, succeeds

START_S = 60
SCHEMES = ("http", "grpc")
SHORT = ("--duration", "0.3")
ECHO = 'backend: "reference"\nmax_batch_size: 8\nparameters { key: "model" value { string_value: "reference:identity?shape=16" } }\n'
SLOW = ('backend: "reference"\nmax_batch_size: 1\nparameters { key: "millrace.slots" value { string_value: "1" } }\n'
        'parameters { key: "model" value { string_value: "reference:busy?batch_us=5000&mode=sleep&shape=16" } }\n'
        "dynamic_batching { default_queue_policy { max_queue_size: 4 } }\n")


@contextlib.contextmanager
def serving(folder, *options):
    """{"http": URL, "grpc": URL, "pid": its process}; the URLs as the server says them."""
    process = subprocess.Popen([BINARY, "serve", folder, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "-1", "--devices", "host:0",
                                "--no-supervise", *options],  # one process, whose figures are the server's
                               stdout=subprocess.PIPE, text=True)
    try:
        until, found = time.monotonic() + START_S, {}
        while not found and time.monotonic() < until:
            line = process.stdout.readline()
            assert line, "the server ended"
            if line.startswith("millrace serves"):
                found = {scheme: f"{scheme}{secure}://{address}" for scheme, secure, address in re.findall(r"(http|grpc)(s?)://(\S+)", line)}
        yield found | {"pid": process.pid}
    finally:
        process.terminate()
        process.wait(START_S)


def write_models(folder):
    for name, config in (("echo", ECHO), ("slow", SLOW)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "digits" / "1").mkdir(parents=True)
    shutil.copy(DIGITS / "digits.onnx", folder / "digits" / "1" / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = write_models(tmp_path_factory.mktemp("models"))
    with serving(folder, "--mode", "explicit", "--load", "*", "--allow-repository-control", "--allow-client-shm") as found:
        yield found


@pytest.fixture(params=SCHEMES)
def url(server, request):
    return server[request.param]


def test_health_and_metadata(url):
    assert as_json("client", url, "health") == {"live": True, "ready": True}
    assert "yes" in succeeds("client", url, "health", "digits")
    about = as_json("client", url, "metadata")
    assert "binary_tensor_data" in about["extensions"] and about["version"]
    model = as_json("client", url, "metadata", "digits")
    assert model["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 8, 8]}] and model["versions"] == ["1"]
    assert "images" in succeeds("client", url, "metadata", "digits")


def test_the_index_and_a_model_that_comes_and_goes(url):
    states = {entry["name"]: entry["state"] for entry in as_json("client", url, "models")}
    assert states["echo"] == states["digits"] == "READY"
    succeeds("client", url, "unload", "echo")
    until = time.monotonic() + START_S
    while millrace("client", url, "health", "echo").returncode == 0:
        assert time.monotonic() < until
    assert "echo" in fails(1, "client", url, "infer", "echo", "--input", "random")
    succeeds("client", url, "load", "echo")
    assert as_json("client", url, "health", "echo")["ready"]


def test_infer_answers_as_run_does(url, tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    arguments = ("--input", f"images={DIGITS / 'held_out.npz'}")
    found = as_json("client", url, "infer", "digits", *arguments, "--items", "8", "--output", there)
    succeeds("run", DIGITS, *arguments, "--output", here)
    with np.load(there / "outputs.npz") as served, np.load(here / "outputs.npz") as ran:
        assert set(served.files) == set(ran.files)
        for name in ran.files:
            np.testing.assert_allclose(served[name], ran[name], rtol=1e-4, atol=1e-6)
    images = len(held_out()["images"])
    assert found["requests"] == -(-images // 8) and found["files"] == [str(there / "outputs.npz")]
    check_schema(found["latency_us"], LATENCY)


def test_infer_with_random_data(url):
    found = as_json("client", url, "infer", "echo", "--input", "random", "--items", "3", "--timeout", "20", "--id", "x")
    assert found["outputs"][0]["elements"] == 3 * 16 and 0 <= found["outputs"][0]["min"] < 1


def test_watch_counts(url):
    succeeds("client", url, "infer", "echo", "--input", "random")
    rows = [json.loads(line) for line in succeeds("client", url, "watch", "echo", "--count", "2", "--json").splitlines()]
    assert len(rows) == 2 and [row["model"] for row in rows[0]] == ["echo"]
    assert set(rows[0][0]["mean_us"]) == {"total", "queue", "compute"}
    assert "requests/s" in succeeds("client", url, "watch", "--count", "1")


SERVER = {"url": str, "shared_memory": str, "refused": int, "cpu_s?": NUMBER, "cpu_us_per_request?": NUMBER, "requests_per_cpu_s?": NUMBER,
          "rss_mib?": NUMBER, "requests?": int, "batches?": int,
          "mean_us?": {name: NUMBER for name in ("queue", "compute_input", "compute_infer", "compute_output", "total")}}


def bench(url, *arguments):
    found = as_json("bench", "--url", url, *arguments, *SHORT)
    check_schema(found["server"], SERVER)
    assert found["errors"] == 0 and found["requests"] > 0 and found["latency_us"]["p50"] > 0
    return found


@pytest.mark.parametrize("load, scenario", [
    (["--offline"], "offline"), (["--concurrency", "1"], "concurrency 1"), ([], "concurrency 64"), (["--rate", "200"], "rate 200"),
])
def test_bench_measures_a_server(url, load, scenario):
    found = bench(url, "echo", *load)
    assert found["scenario"] == scenario and found["server"]["url"] == url and found["server"]["shared_memory"] == "none"
    assert found["server"]["requests"] >= found["requests"] * 0.5 and found["server"]["mean_us"]["total"] > 0
    assert ("sender_lateness_us" in found) == scenario.startswith("rate")


@pytest.mark.parametrize("kind", ["none", "system"])
def test_bench_sends_over_every_kind_of_memory(url, kind):
    found = bench(url, "digits", "--input", DIGITS / "held_out.npz", "--batch", "4", "--concurrency", "4", "--shared-memory", kind)
    assert found["request_items"] == 4 and found["server"]["shared_memory"] == kind
    assert found["items_per_s"] == pytest.approx(4 * found["requests_per_s"], rel=0.01)


def test_bench_counts_the_servers_cpu_and_memory(server):
    found = bench(server["http"], "echo", "--server-pid", server["pid"])
    assert found["server"]["cpu_s"] > 0 and found["server"]["rss_mib"] > 1
    assert found["server"]["requests_per_cpu_s"] == pytest.approx(found["requests"] / found["server"]["cpu_s"], rel=0.01)
    assert all(sample["server_rss_mib"] > 1 for sample in found["samples"])
    assert "no process 999999999" in fails(1, "bench", "--url", server["http"], "echo", "--server-pid", "999999999")


def test_refusals_are_failures_unless_allowed(url):
    load = ("slow", "--concurrency", "32", *SHORT)
    assert "queue_full" in millrace("bench", "--url", url, *load).stderr
    found = as_json("bench", "--url", url, *load, "--allow-refused")
    assert found["server"]["refused"] == found["errors"] > 0 and found["requests"] > 0


def test_bench_needs_nothing_but_the_standard_protocol(tmp_path):
    program = BINARY.parent / "server_do_nothing_http"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    with subprocess.Popen([program, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            found = bench(f"http://127.0.0.1:{int(process.stdout.readline())}", "identity", "--concurrency", "4")
        finally:
            process.terminate()
    assert "requests" not in found["server"]


@pytest.mark.parametrize("arguments, message", [
    (["echo", "--lanes", "2"], "--lanes does not go with --url"),
    (["echo", "--compare", "direct"], "--compare does not go with --url"),
    (["echo", "digits"], "one model"),
    (["echo", "--batch", "2", "--request-items", "2"], "the same"),
    (["echo", "--shape", "input"], "NAME=3x224x224"),
    (["echo", "--shared-memory", "pinned"], "--shared-memory"),
])
def test_wrong_usage_of_bench(server, arguments, message):
    assert message in fails(2, "bench", "--url", server["http"], *arguments)


@pytest.mark.parametrize("arguments, message", [
    (["http://127.0.0.1:1", "dance"], "ACTION"),
    (["http://127.0.0.1:1"], "ACTION"),
    (["http://127.0.0.1:1", "infer"], "name of a model"),
    (["http://127.0.0.1:1", "models", "digits"], "takes no model"),
])
def test_wrong_usage(arguments, message):
    assert message in fails(2, "client", *arguments)


@pytest.mark.parametrize("arguments, message", [
    (["http://127.0.0.1:1", "health"], "127.0.0.1:1"),
    (["ftp://127.0.0.1", "health"], "http://HOST:PORT"),
])
def test_what_cannot_be_reached(arguments, message):
    assert message in fails(1, "client", *arguments)


def test_unknown_names_are_told(url):
    assert "no_such" in fails(1, "client", url, "infer", "no_such", "--input", "random")
    assert "no_such" in fails(1, "client", url, "infer", "digits", "--input", "no_such.npz")
    assert "no_such" in fails(1, "bench", "--url", url, "no_such", *SHORT)


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl to make a certificate with")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-keyout", "key.pem",
                    "-out", "certificate.pem", "-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    (folder / "tokens").write_text("abracadabra\n")
    with serving(write_models(folder / "models"), "--tls-cert", folder / "certificate.pem", "--tls-key", folder / "key.pem",
                 "--token-file", folder / "tokens") as found:
        yield found | {"ca": folder / "certificate.pem"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tls_and_tokens(secure, scheme):
    url, trust, token = secure[scheme], ("--tls-ca", secure["ca"]), ("--token", "abracadabra")
    assert url.startswith(f"{scheme}s://")
    assert as_json("client", url, "infer", "echo", "--input", "random", *trust, *token)["outputs"][0]["elements"] == 16
    found = as_json("bench", "--url", url, "echo", "--concurrency", "4", *trust, *token, *SHORT)
    assert found["requests"] > 0 and found["errors"] == 0
    assert "token" in fails(1, "client", url, "infer", "echo", "--input", "random", *trust).lower()


def test_a_certificate_that_nobody_vouches_for_is_refused(secure):
    assert "TLS" in fails(1, "client", secure["http"], "health", "--token", "abracadabra")


def test_cells_of_the_server_run_and_are_judged(tmp_path):
    """The cell with the fewest programs."""
    spec = importlib.util.spec_from_file_location("server_benchmarks", ROOT / "bench" / "server" / "run.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    done = subprocess.run([ROOT / "bench" / "server" / "run.py", "--bin", BINARY.parent, "--out", tmp_path, "--quick", "server_reloads"],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "server_reloads.json").read_text())
    bars, stated = runner.CELLS["server_reloads"].judge(record["results"])
    assert (bars, stated) == (record["bars"], record["stated"]) and bars[0]["met"]
