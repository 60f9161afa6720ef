"""The verb bench, the benchmark programs and the records that they make. No figure is asserted on: the machine that
runs the tests may be busy."""

import csv
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import pytest
from cli_helpers import BINARY, DIGITS, LATENCY, NUMBER, ROOT, check_schema, fails, millrace, succeeds

HELD_OUT = DIGITS / "held_out.npz"
SHORT = ("--duration", "0.2")
SPREAD = {name: NUMBER for name in ("median", "low", "high", "min", "max")}
PHASES = {name: LATENCY for name in ("queue", "stage", "copy_in", "compute", "copy_out", "complete", "total")}
SAMPLE = {"seconds": NUMBER, "items_per_s": NUMBER, "requests_per_s": NUMBER, "p50_us": NUMBER, "p99_us": NUMBER,
          "cpu_s": NUMBER, "errors": int, "counted": bool}
COMPARISON = {
    "name": str, "what": str, "items_per_s": NUMBER, "ratio": NUMBER, "ratio_spread": SPREAD, "p50_us": NUMBER,
    "p50_excess_us": SPREAD, "batch": int, "threads?": int, "intra_threads?": int, "spinning?": bool, "lanes?": int,
    "slots?": int, "concurrency?": int,
    "samples": [{"engine_items_per_s": NUMBER, "peer_items_per_s": NUMBER, "engine_p50_us": NUMBER, "peer_p50_us": NUMBER}],
}
DEVICE = {"device": str, "items_per_s": NUMBER, "requests_per_s": NUMBER, "batches": int, "moved_requests": int,
          "share_of_model": NUMBER, "share_of_device": NUMBER, "latency_us": LATENCY}
GRAPHS = {"asked_for": bool, "eager_share": NUMBER, "why_not": str,
          "eager_batches": {name: int for name in ("unknown_shapes", "blocking", "not_captured", "cheaper")}}
CELL = {
    "model": str, "backend": str, "devices": [str], "per_device": [DEVICE], "lanes": int, "slots": int, "batch": int, "scenario": str,
    "in_flight": (int, type(None)), "rate": (int, float, type(None)), "request_items": int, "batching": bool, "memory": str, "delay_us": NUMBER,
    "items_per_s": NUMBER, "requests_per_s": NUMBER, "latency_us": LATENCY, "phases_us": PHASES, "errors": int, "cpu_s": NUMBER,
    "rss_mib": NUMBER, "cpu_us_per_request": NUMBER, "seconds": NUMBER, "stable": bool, "interrupted": bool, "requests": int,
    "checked": int, "batches": int, "prepared_batches": int, "in_place_batches": int, "graphs": GRAPHS, "batch_items_mean": NUMBER, "comparison": [COMPARISON], "wake_us": NUMBER,
    "timer_lag_us": NUMBER, "machine": {"cores": int, "versions": dict}, "samples": [SAMPLE], "sender_lateness_us?": LATENCY,
    "first_error?": str,
}


TOGETHER = {"scenario": str, "models": [CELL], "items_per_s": NUMBER, "requests_per_s": NUMBER, "errors": int, "cpu_s": NUMBER,
            "seconds": NUMBER, "stable": bool, "interrupted": bool}


def bench(*arguments):
    found = json.loads(succeeds("bench", *arguments, *SHORT, "--json"))
    for cell in found if isinstance(found, list) else [found]:
        check_schema(cell, CELL)
        assert cell["errors"] == 0 and cell["requests"] > 0 and cell["items_per_s"] > 0
        assert cell["requests"] * cell["request_items"] == pytest.approx(cell["items_per_s"] * cell["seconds"], rel=0.01)
        latency = cell["latency_us"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    return found


@pytest.mark.parametrize("arguments, scenario, request_items", [
    (["--offline", "--batch", "32"], "offline", 32),
    (["--concurrency", "1", "--batch", "1"], "concurrency 1", 1),
    (["--concurrency", "8", "--request-items", "2"], "concurrency 8", 2),
    ([], "concurrency 64", 1),
    (["--rate", "300"], "rate 300", 1),
])
def test_each_load_on_real_data(arguments, scenario, request_items):
    cell = bench(DIGITS, "--input", HELD_OUT, *arguments)
    assert (cell["model"], cell["backend"], cell["devices"]) == (str(DIGITS), "onnxruntime", ["host:0"])
    assert (cell["scenario"], cell["request_items"]) == (scenario, request_items)
    assert ("sender_lateness_us" in cell) == scenario.startswith("rate")


def test_batching_on_combines_and_off_does_not():
    load = ["reference:busy?batch_us=2000", "--concurrency", "16", "--batch", "8"]
    on, off = bench(*load), bench(*load, "--batching", "off")
    assert on["batch"] == 8 and on["batch_items_mean"] > 1 and on["batching"]
    assert off["batch"] == 1 and off["batch_items_mean"] == 1 and not off["batching"]


def test_delay_reaches_the_engine():
    assert bench("reference:identity", "--concurrency", "4", "--delay", "500")["delay_us"] == 500


def test_random_inputs_need_no_files():
    assert bench(ROOT / "tests" / "models" / "linear.onnx")["backend"] == "onnxruntime"


MAYBE = (type(None), dict)
FIGURES = {name: MAYBE for name in ("ready_s", "first_inference_s", "gpu_bytes", "host_bytes")}
STARTUP = {
    "model": str, "backend": str, "devices": [str], "scenario": str, "runs": int, "eager_to_lazy": FIGURES, "remark": str,
    "loading": [{"loading": str, **FIGURES, "samples": [{"ready_s": NUMBER, "first_inference_s": NUMBER, "host_bytes": NUMBER,
                                                         "gpu_bytes": (int, float, type(None))}]}],
    "machine": {"cores": int, "versions": dict},
}


def test_startup_compares_fresh_processes(tmp_path):
    report = tmp_path / "startup.json"
    text = succeeds("bench", "--startup", DIGITS, "--pairs", "2", "--devices", "host", "--json", report)
    found = json.loads(report.read_text())
    check_schema(found, STARTUP)
    assert (found["backend"], found["devices"], found["runs"]) == ("onnxruntime", ["host:0"], 2)
    assert [kind["loading"] for kind in found["loading"]] == ["LAZY", "EAGER"]
    for kind in found["loading"]:
        assert len(kind["samples"]) == 2
        for sample in kind["samples"]:
            assert 0 < sample["ready_s"] <= sample["first_inference_s"]
            assert sample["host_bytes"] > 2**20 and sample["gpu_bytes"] is None
        assert set(kind["first_inference_s"]) == set(SPREAD) and kind["gpu_bytes"] is None
    assert found["eager_to_lazy"]["first_inference_s"]["median"] > 0
    assert "LAZY" in text and "EAGER" in text and "changes nothing there" in text and found["remark"] in text


def test_startup_takes_no_load_and_passes_errors_on():
    assert "--offline does not go with it" in fails(2, "bench", "--startup", DIGITS, "--offline")
    done = millrace("bench", "--startup", "reference:no_such_kind")
    assert done.returncode == 1 and "no_such_kind" in done.stderr and "its message is above" in done.stderr


def test_lists_sweep_and_give_table_csv_and_plot(tmp_path):
    out = {name: tmp_path / f"out.{name}" for name in ("json", "csv", "svg")}
    text = succeeds("bench", "reference:identity", "--lanes", "1,2", "--batch", "1,4", "--concurrency", "8", *SHORT,
                    "--json", out["json"], "--csv", out["csv"], "--plot", out["svg"])
    cells = json.loads(out["json"].read_text())
    assert [(cell["lanes"], cell["batch"]) for cell in cells] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    for cell in cells:
        check_schema(cell, CELL)
    assert len(text.splitlines()) == 6 and "items/s" in text
    rows = list(csv.DictReader(out["csv"].read_text().splitlines()))
    assert [(row["lanes"], row["batch"]) for row in rows] == [("1", "1"), ("1", "4"), ("2", "1"), ("2", "4")]
    assert [float(row["items_per_s"]) for row in rows] == [cell["items_per_s"] for cell in cells]

    svg = ET.parse(out["svg"]).getroot()
    ns = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in svg.iter(f"{ns}text")]
    for label in ("items/s", "ms", "batch (items)", "1 lane", "2 lanes", "Throughput", "Latency, p99"):
        assert label in texts
    assert len([bar for bar in svg.iter(f"{ns}rect") if bar.find(f"{ns}title") is not None]) == 4
    assert len(list(svg.iter(f"{ns}circle"))) == 4
    width, height = (float(svg.get(name)) for name in ("width", "height"))
    for element in svg.iter(f"{ns}circle"):
        assert 0 < float(element.get("cx")) < width and 0 < float(element.get("cy")) < height


def test_comparing_the_digits_model_with_loops_by_hand():
    cell = bench(DIGITS, "--input", HELD_OUT, "--offline", "--batch", "8", "--compare", "naive,direct", "--pairs", "2")
    names = [comparison["name"] for comparison in cell["comparison"]]
    assert names[:2] == ["naive", "direct"] and set(names[2:]) <= {"direct_best"}
    for comparison in cell["comparison"]:
        assert len(comparison["samples"]) == 2 and comparison["batch"] == 8
        ratios = [sample["engine_items_per_s"] / sample["peer_items_per_s"] for sample in comparison["samples"]]
        assert comparison["ratio"] == pytest.approx(sum(ratios) / 2, rel=1e-3)
        assert comparison["ratio_spread"]["min"] == pytest.approx(min(ratios), rel=1e-3)


def test_comparing_the_identity_model_with_a_bare_pipeline():
    cell = bench("reference:identity", "--concurrency", "32", "--batch", "16", "--compare", "direct", "--pairs", "3")
    [direct] = cell["comparison"]
    assert (direct["name"], direct["concurrency"], direct["batch"], direct["lanes"]) == ("direct", 32, 16, cell["lanes"])
    assert len(direct["samples"]) == 3 and direct["ratio"] > 0


@pytest.mark.parametrize("model, peers, message", [
    ("reference:identity", "naive", "no naive loop"),
    ("reference:busy", "direct", "only reference:identity"),
    (str(ROOT / "tests" / "models" / "identity_string.onnx"), "direct", "BYTES"),
])
def test_what_there_is_nothing_to_compare_with_is_said(model, peers, message):
    assert message in fails(1, "bench", model, "--compare", peers, "--concurrency", "4", *SHORT)


def test_the_text_for_one_cell_says_what_was_measured():
    text = succeeds("bench", "reference:identity", "--concurrency", "4", "--windows", *SHORT)
    for word in ("throughput", "latency", "p99.9", "compared with the reference", "wake-up", "Where the time of a request goes", "counted"):
        assert word in text


def test_trace_holds_the_batches(tmp_path):
    trace = tmp_path / "trace.json"
    succeeds("bench", "reference:busy?batch_us=500", "--concurrency", "2", "--trace", trace, *SHORT)
    events = json.loads(trace.read_text())
    events = events["traceEvents"] if isinstance(events, dict) else events
    assert any(event.get("ph") == "X" for event in events)


@pytest.mark.parametrize("arguments, message", [
    (["--offline", "--rate", "5"], "one of --offline, --concurrency and --rate"),
    (["--concurrency", "2", "--rate", "5"], "one of --offline, --concurrency and --rate"),
    (["--concurrency", "0"], "--concurrency"),
    (["--concurrency", "-1"], "--concurrency"),
    (["--rate", "0"], "--rate"),
    (["--lanes", "1,0"], "--lanes"),
    (["--batch", "0"], "--batch"),
    (["--duration", "0"], "--duration"),
    (["--duration", "soon"], "--duration"),
    (["--batching", "maybe"], "--batching"),
    (["--compare", "magic"], "--compare"),
    (["--compare", "direct,direct"], "twice"),
    (["--compare", "direct", "--rate", "5"], "--compare does not go with --rate"),
    (["--in-flight", "4"], "--in-flight goes with --offline"),
    (["--offline", "--request-items", "4"], "--request-items does not go with --offline"),
    (["--lanes", "1,2", "--trace", "x.json"], "--trace"),
    (["--pairs", "0"], "--pairs"),
])
def test_wrong_usage(arguments, message):
    assert message in fails(2, "bench", "reference:identity", *arguments)


@pytest.mark.parametrize("arguments, message", [
    (["no_such_model.onnx"], "no_such_model.onnx"),
    (["reference:identity", "--input", "no_such_file.npz"], "no_such_file.npz"),
    (["reference:identity", "--input", str(HELD_OUT)], "named like an input"),
    (["reference:identity", "--devices", "host:0,cuda:77"], "cuda:77"),
    (["reference:identity", "--backend", "abacus"], "abacus"),
    (["reference:identity", "--request-items", "64", "--batch", "8", "--concurrency", "2"], "at most 8"),
    (["reference:identity?shape=-1"], "--input"),
    (["reference:identity", "--concurrency", "2", "--json", "/nowhere/out.json"], "/nowhere/out.json"),
    (["reference:identity", "--concurrency", "2", "--csv", "/dev/full/x"], "/dev/full/x"),
])
def test_what_fails_says_why(arguments, message):
    assert message in fails(1, "bench", *arguments, *SHORT)


def test_failing_requests_fail_the_run_but_the_figures_are_shown():
    done = millrace("bench", "reference:fail?every=50&at=300", "--concurrency", "2", "--batch", "1", *SHORT, "--json")
    assert done.returncode == 1
    assert re.search(r"error: .* of .* requests failed; the first: ", done.stderr)
    cell = json.loads(done.stdout)
    check_schema(cell, CELL)
    assert cell["errors"] > 0 and cell["first_error"]


NOT_CAPTURED = "reference:identity?only_prepared=1&graphs=1&not_captured=1"


def test_batches_without_a_graph_are_counted():
    graphs = bench(NOT_CAPTURED, "--concurrency", "2")["graphs"]
    assert graphs["asked_for"] is False and graphs["eager_share"] == 1 and graphs["why_not"] == "not captured, as asked"
    assert graphs["eager_batches"]["not_captured"] > 0 and graphs["eager_batches"]["cheaper"] == 0
    text = succeeds("bench", NOT_CAPTURED, "--concurrency", "2", *SHORT)
    assert re.search(r"graphs +[\d,]+ of [\d,]+ batches ran without one \(100.0%\): [\d,]+ not_captured \(not captured, as asked\)", text)
    captured = bench("reference:identity?only_prepared=1&graphs=1", "--concurrency", "2", "--option", "graphs=1")
    assert captured["graphs"]["asked_for"] is True and captured["graphs"]["eager_share"] == 0
    assert captured["prepared_batches"] == captured["batches"]


def test_graphs_that_were_asked_for_and_did_not_run_fail_the_run():
    done = millrace("bench", NOT_CAPTURED, "--concurrency", "2", "--option", "graphs=1", *SHORT, "--json")
    assert done.returncode == 1
    assert re.search(r"error: graphs were asked for \(--option graphs=on\), but [\d,]+ of [\d,]+ batches ran without one \(100.0%\)",
                     done.stderr)
    assert json.loads(done.stdout)["graphs"]["eager_share"] == 1


def start_long_run():
    process = subprocess.Popen([BINARY, "bench", "reference:identity", "--rate", "200", "--duration", "36000", "--json"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(4)
    return process


def test_interrupting_prints_what_there_is():
    process = start_long_run()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    cell = json.loads(out)
    check_schema(cell, CELL)
    assert cell["requests"] > 0 and cell["interrupted"] and not cell["stable"]


def test_interrupting_twice_ends_the_program():
    process = start_long_run()
    while process.poll() is None:  # the first asks it to end, one of the others makes it
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT


# --- The programs of bench/ ---

GATHERED = {"model": str, "batches_in_flight": int, "requests": int, "bytes": int, "batches": int, "gb_per_s": NUMBER,
            "gb_per_s_min": NUMBER, "gb_per_s_max": NUMBER}
PROGRAMS = {
    "gather": (["--rounds", "1", "--batches", "1", "--device", "host:0", "--model", ROOT / "tests" / "models" / "average.onnx"], {
        "device": str, "methods": [{"source": str, "bytes": int, "pieces": int, "automatic": {"gb_per_s": NUMBER, "host_us": NUMBER}}],
        "engine": GATHERED, "engine_alone": GATHERED}),
    "allocations": (["--seconds", "0.1"], {"model": str, "runs": [{"concurrency": int, "requests": int, "allocations": int,
                                                                   "allocations_per_request": NUMBER, "bytes_per_request": NUMBER}]}),
    "memory": (["--requests", "20000"], {"model": str, "requests": int, "growth_mib": NUMBER, "most_growth_mib": NUMBER,
                                         "points": [{"requests": int, "rss_bytes": int}]}),
    "devices": (["--seconds", "0.05", "--rounds", "1"], {
        "model": str, "devices": int, "scaling": NUMBER, "scaling_min": NUMBER, "scaling_max": NUMBER, "slowness": NUMBER,
        "share_of_ideal": NUMBER, "share_of_ideal_min": NUMBER, "share_of_ideal_max": NUMBER,
        "samples": [{"one_items_per_s": NUMBER, "four_items_per_s": NUMBER, "uneven_items_per_s": NUMBER}]}),
    "shares": (["--seconds", "0.1", "--rounds", "1"], {
        "weights": [{"max_batches_in_flight": int, "device_time_ratio": NUMBER, "min": NUMBER, "max": NUMBER,
                     "samples": [{"heavy_s": NUMBER, "light_s": NUMBER}]}],
        "priority": {"low_batch_us": int, "high_batch_us": int, "requests": int, "wait_us": LATENCY}}),
    "isolation": (["--seconds", "0.4", "--rounds", "1"], {
        "model": str, "neighbours": [{"neighbour": str, "alone_us": LATENCY, "beside_us": LATENCY, "p99_ratio": NUMBER,
                                      "p99_ratio_min": NUMBER, "p99_ratio_max": NUMBER,
                                      "samples": [{"alone_p99_us": NUMBER, "beside_p99_us": NUMBER}]}]}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_bench_runs_and_keeps_its_form(name):
    arguments, schema = PROGRAMS[name]
    done = subprocess.run([BINARY.parent / f"bench_{name}", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check_schema(json.loads(done.stdout), schema)


def test_every_program_of_bench_is_tested_here():
    assert {path.stem for path in (ROOT / "bench").glob("*.cpp")} == set(PROGRAMS)


# --- Several models and devices ---

@pytest.mark.parametrize("load", [["--offline"], ["--concurrency", "8"], ["--concurrency", "1"], ["--rate", "400"]])
def test_several_models_each_on_its_devices(load):
    found = json.loads(succeeds("bench", f"{DIGITS}@host:0", "reference:identity@host:1", "reference:busy?batch_us=200@host:0,host:1", *load, *SHORT, "--json"))
    check_schema(found, TOGETHER)
    digits, identity, busy = found["models"]
    assert (digits["devices"], identity["devices"], busy["devices"]) == (["host:0"], ["host:1"], ["host:0", "host:1"])
    for cell in found["models"]:
        assert cell["errors"] == 0 and cell["requests"] > 0 and cell["scenario"] == found["scenario"]
        assert [device["device"] for device in cell["per_device"]] == cell["devices"]
        assert sum(device["share_of_model"] for device in cell["per_device"]) == pytest.approx(1, abs=0.001)
    assert found["items_per_s"] == pytest.approx(sum(cell["items_per_s"] for cell in found["models"]), abs=1)
    for device in ("host:0", "host:1"):
        shares = [entry["share_of_device"] for cell in found["models"] for entry in cell["per_device"] if entry["device"] == device]
        assert len(shares) == 2 and sum(shares) == pytest.approx(1, abs=0.001)


def test_several_models_for_people(tmp_path):
    text = succeeds("bench", "reference:identity@host:0", "reference:identity@host:1", *SHORT, "--csv", tmp_path / "both.csv")
    assert "2 models at once" in text and "What each device did" in text and "identity#2" in text
    rows = list(csv.DictReader((tmp_path / "both.csv").read_text().splitlines()))
    assert [(row["model"], row["devices"]) for row in rows] == [("reference:identity@host:0", "host:0"), ("reference:identity@host:1", "host:1")]


def test_models_without_devices_run_on_all_that_are_named():
    found = json.loads(succeeds("bench", "reference:identity", "reference:add@host:1", "--devices", "host:0", *SHORT, "--json"))
    assert [cell["devices"] for cell in found["models"]] == [["host:0", "host:1"], ["host:1"]]


def test_data_on_a_device_is_computed_there():
    cell = bench("reference:identity", "--devices", "host:0,host:1", "--data-on", "host:1", "--concurrency", "1")
    assert [device["device"] for device in cell["per_device"]] == ["host:0", "host:1"]
    assert cell["per_device"][1]["share_of_model"] > 0.5
    assert cell["per_device"][0]["requests_per_s"] * cell["seconds"] <= cell["per_device"][0]["moved_requests"] + 1
    assert "host:7" in fails(1, "bench", "reference:identity", "--data-on", "host:7", *SHORT)


@pytest.mark.parametrize("arguments, words", [
    (["--lanes", "1,2"], "--lanes"), (["--batch", "1,2"], "--batch"), (["--compare", "naive"], "--compare"),
    (["--input", "x.npy"], "--input"), (["--plot", "x.svg"], "--plot"),
])
def test_what_several_models_cannot(arguments, words):
    message = fails(2, "bench", "reference:identity@host:0", "reference:identity@host:1", *arguments)
    assert words in message and "several models" in message


def test_devices_behind_a_model_are_checked():
    assert '"nothing"' in fails(1, "bench", "reference:identity@nothing", *SHORT)
    assert "expected devices" in fails(1, "bench", "reference:identity@", *SHORT)
    assert "twice" in fails(1, "bench", "reference:identity@host:1,host:1", *SHORT)


def test_a_device_that_fails_for_good_is_told_by_the_exit_code():
    for more in (["--concurrency", "4"], ["--offline"], ["--rate", "2000"]):
        done = millrace("--log", "off", "bench", "reference:fail?sticky=1&at=300@host:0", "reference:identity@host:0,host:1", *more, *SHORT)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "host:0 failed" in done.stderr and "restarted" in done.stderr


# --- Records and tables ---

def load_script(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORD = {
    "cell": str, "what": str, "recorded": str, "commit": str, "modified": bool, "machine": dict, "binaries": dict,
    "commands": [str], "bars": [{"what": str, "bar": str, "value": str, "met": bool}],
    "stated": [{"what": str, "value": str}], "results": list,
}


@pytest.fixture(scope="module")
def runner():
    return load_script(ROOT / "bench" / "run.py")


def test_a_cell_is_run_and_recorded(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "bench" / "run.py", "--bin", BINARY.parent, "--out", tmp_path, "--quick", "allocations"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "allocations.json").read_text())
    check_schema(record, RECORD)
    assert record["results"][0]["runs"][0]["requests"] > 0
    assert re.fullmatch(r"[0-9a-f]{64}", record["binaries"]["bench_allocations"])


@pytest.mark.parametrize("kind", ["pinned", "pageable", "managed"])
def test_inputs_lie_in_the_memory_asked_for(kind):
    assert bench("reference:identity", "--devices", "host:0", "--host-memory", kind)["memory"] == kind


def test_an_unknown_cell_is_refused(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "bench" / "run.py", "--out", tmp_path, "nonsense"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "nonsense" in done.stderr and "allocations" in done.stderr


def test_bars_are_met_or_not_by_the_figures(runner):
    bar = runner.at_least("ratio", 0.97, 0.96, "{:.3f}")
    assert bar == {"what": "ratio", "bar": "at least 0.970", "value": "0.960", "met": False}
    assert runner.at_least("ratio", 0.97, 0.97, "{:.3f}")["met"]
    assert runner.at_most("growth", 1, 0.5, "{:.1f} MiB") == {"what": "growth", "bar": "at most 1.0 MiB", "value": "0.5 MiB", "met": True}
    assert not runner.at_most("growth", 1, 1.5, "{:.1f} MiB")["met"]
    assert not runner.at_least("ratio", 0.97, float("nan"), "{:.3f}")["met"]


def test_committed_records_keep_their_form_and_are_judged_by_their_figures(runner):
    cells = {**runner.CELLS, **load_script(ROOT / "bench" / "gpu" / "run.py").CELLS, **load_script(ROOT / "bench" / "server" / "run.py").CELLS,
             **load_script(ROOT / "bench" / "gpu" / "server.py").CELLS}
    for path in sorted((ROOT / "docs" / "benchmarks").glob("*.json")):
        record = json.loads(path.read_text())
        check_schema(record, RECORD, path.name)
        assert record["cell"] == path.stem and record["cell"] in cells
        bars, stated = cells[record["cell"]].judge(record["results"])
        assert (bars, stated) == (record["bars"], record["stated"]), path.name


def test_tables_in_the_docs_are_those_of_the_records():
    done = subprocess.run([sys.executable, ROOT / "tools" / "benchmark_tables.py", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_table_that_was_edited_by_hand_is_found(tmp_path):
    tables = load_script(ROOT / "tools" / "benchmark_tables.py")
    (tmp_path / "docs" / "benchmarks").mkdir(parents=True)
    record = {"cell": "x", "what": "A thing", "recorded": "2026-01-02", "commit": "0123456789", "modified": False,
              "machine": {"processor": "P", "cores": 2}, "binaries": {}, "commands": ["c"],
              "bars": [{"what": "ratio", "bar": "at least 0.9", "value": "0.95", "met": True}],
              "stated": [{"what": "rate", "value": "10"}], "results": []}
    (tmp_path / "docs" / "benchmarks" / "x.json").write_text(json.dumps(record))
    page = tmp_path / "README.md"
    page.write_text(f"before\n{tables.BEGIN}\n{tables.END}\nafter\n")
    assert tables.update(tmp_path, check=True) == [page]
    assert tables.update(tmp_path, check=False) == [page]
    assert tables.update(tmp_path, check=True) == []
    text = page.read_text()
    assert "| A thing | ratio | at least 0.9 | 0.95 | yes |" in text and "rate: 10" in text
    assert text.startswith("before\n") and text.endswith("after\n")
    page.write_text(text.replace("0.95", "0.99"))
    assert tables.update(tmp_path, check=True) == [page]


def test_nothing_in_bench_direct_is_ours():
    for path in (ROOT / "bench" / "direct").iterdir():
        text = path.read_text()
        assert "millrace/" not in text and '"cli/' not in text and '"engine/' not in text, path
