"""The program as a whole: versions, help, exit codes, messages; the verbs devices and inspect."""

import json

import pytest
from cli_helpers import BINARY, DIGITS, ROOT, as_json, check_schema, fails, millrace, succeeds


def test_version_tells_what_a_bug_report_needs():
    text = succeeds("--version")
    names = [line[:20].strip() for line in text.splitlines()]
    for name in ("millrace", "compiler", "cuda runtime", "cuda driver", "backend reference", "backend onnxruntime"):
        assert name in names, text


def test_help_names_every_verb_and_the_exit_codes():
    text = succeeds("--help")
    for verb in ("devices", "inspect", "run", "bench", "demo", "build", "cache"):
        assert f"\n  {verb} " in text, text
    assert "0 fine, 1 failed, 2 wrong usage" in text
    for verb in ("devices", "inspect", "run", "demo", "build", "cache"):
        assert "--json" in succeeds(verb, "--help")


@pytest.mark.parametrize("arguments, message", [
    ([], "expected a verb"),
    (["fly"], "fly"),
    (["devices", "--colour"], "--colour"),
    (["inspect"], "MODEL is required"),
    (["run", DIGITS], "--input is required"),
    (["run", DIGITS, "--input", "x.npy", "--lanes", "0"], "--lanes"),
    (["run", DIGITS, "--input", "x.npy", "--lanes", "-2"], "--lanes"),
    (["run", DIGITS, "--input", "x.npy", "--lanes", "many"], "--lanes"),
    (["run", DIGITS, "--input", "x.npy", "--slots", "9"], "--slots"),
    (["run", DIGITS, "--input", "x.npy", "--batch", "0"], "--batch"),
    (["run", DIGITS, "--input", "x.npy", "--top", "0"], "--top"),
    (["run", DIGITS, "--input", "x.npy", "--format", "xml"], "--format"),
    (["run", DIGITS, "--input", "x.npy", "--format", "npz"], "--output DIR"),
    (["run", DIGITS, "--input", "x.npy", "--format", "jsonl", "--json"], "--output DIR"),
    (["run", DIGITS, "--input", "x.npy", "--option", "threads"], "expected name=value"),
    (["demo", "--duration", "0"], "--duration"),
    (["demo", "--in-flight", "0"], "--in-flight"),
    (["devices", "--log", "loud"], "expected debug, info, warning, error or off"),
])
def test_wrong_usage_ends_with_2_and_says_where_help_is(arguments, message):
    found = fails(2, *arguments)
    assert message in found
    assert "--help" in found


def test_log_level_is_taken_before_and_behind_the_verb():
    assert millrace("--log", "off", "devices").returncode == 0
    assert millrace("devices", "--log", "off").returncode == 0


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["devices"], ["devices", "--json"], ["inspect", DIGITS]])
def test_a_full_disk_behind_standard_output_is_noticed(arguments):
    with open("/dev/full", "w") as full:
        assert fails(1, *arguments, stdout=full) == "cannot write to standard output: No space left on device"


NONE = type(None)
DEVICES = {
    "devices": [{"device": str, "kind": str, "name": str, "uuid": str, "cores": int, "memory_bytes": int, "limit_bytes": int,
                 "free_bytes": int, "used_bytes": int, "compute_capability?": str, "pci_bus_id?": str, "numa_node?": int}],
    "backends": [{"name": str, "usable": bool, "version": str, "reason": str}],
    "cuda": {"visible_gpus": int, "driver_version": str, "runtime_version": str, "reason": str},
    "nvml": {"available": bool, "reason": str, "driver_version?": (str, NONE), "cuda_version?": (str, NONE),
             "nvml_version?": (str, NONE), "gpus": [dict], "peers": [dict], "refused": dict},
}


def test_devices_json():
    found = as_json("devices")
    check_schema(found, DEVICES)
    assert found["devices"][-1]["device"] == "host:0"
    assert found["devices"][-1]["cores"] >= 1
    assert found["devices"][-1]["memory_bytes"] > 2**28
    backends = {b["name"]: b for b in found["backends"]}
    assert backends["reference"]["usable"] and backends["onnxruntime"]["usable"]
    assert backends["onnxruntime"]["version"].startswith("1.")
    for backend in found["backends"]:
        assert backend["usable"] or backend["reason"], backend
    assert found["cuda"]["visible_gpus"] > 0 or found["cuda"]["reason"]
    assert len([d for d in found["devices"] if d["kind"] == "cuda"]) == found["cuda"]["visible_gpus"]


def test_nvml_or_its_absence_is_said():
    found, text = as_json("devices")["nvml"], succeeds("devices")
    assert found["available"] == (found["reason"] == "") == ("driver_version" in found)
    if found["available"]:
        assert found["gpus"] and all(gpu["uuid"] in text for gpu in found["gpus"])
    else:
        assert found["reason"] in text and not found["gpus"]
    assert as_json("devices", "--devices", "host")["nvml"]["gpus"] == []


def test_devices_text_shows_the_same():
    text = succeeds("devices")
    for word in ("Devices", "host:0", "Backends", "reference", "onnxruntime", "CUDA"):
        assert word in text
    assert "\033" not in text


def test_devices_by_name():
    found = as_json("devices", "--devices", "host,host:1")
    assert [d["device"] for d in found["devices"]] == ["host:0", "host:1"]


@pytest.mark.parametrize("name", ["cuda:99", "99", "GPU-00000000-dead", "toaster", "host:-1", "host,host"])
def test_unknown_devices_are_refused(name):
    message = fails(1, "devices", "--devices", name)
    assert name.split(",")[0] in message


TENSOR = {"name": str, "type": str, "shape": [int], "batch_axis": int, "on_host": bool}
INSPECT = {
    "name": str, "path": str, "configuration": str, "backend": str, "backend_reason": str, "inputs": [TENSOR], "outputs": [TENSOR],
    "max_items": int, "labels": int, "metadata": dict, "preprocess": dict,
    "placements": [{"device": str, "lanes": int, "slots": int, "lanes_share_weights": bool, "weights_bytes": int, "lane_bytes": int,
                    "context_bytes": int, "activation_bytes": int, "graph_bytes": int, "slot_bytes": int, "shared_bytes": int,
                    "total_bytes": int, "prepared_shapes": int, "enqueue_blocks": bool, "not_graphs": str}],
}


def test_inspect_the_digits():
    found = as_json("inspect", DIGITS, "--devices", "host")
    check_schema(found, INSPECT)
    assert found["name"] == "digits"
    assert found["backend"] == "onnxruntime" and found["backend_reason"]
    assert found["inputs"] == [{"name": "images", "type": "FP32", "shape": [-1, 1, 8, 8], "batch_axis": 0, "on_host": False}]
    assert found["outputs"] == [{"name": "probabilities", "type": "FP32", "shape": [-1, 10], "batch_axis": 0, "on_host": False}]
    assert found["labels"] == 10
    assert found["preprocess"]["images"]["resize"] == [8, 8]
    assert found["preprocess"]["images"]["scale"] == pytest.approx(16 / 255)
    (placement,) = found["placements"]
    assert placement["device"] == "host:0"
    assert placement["lanes_share_weights"] is True
    assert 500_000 < placement["weights_bytes"] < 5_000_000


def test_inspect_text_shows_the_same():
    text = succeeds("inspect", DIGITS, "--devices", "host")
    for word in ("digits", "images", "[N,1,8,8]", "probabilities", "[N,10]", "onnxruntime", "share one set of weights", "host:0"):
        assert word in text, text


def test_the_configuration_is_found_from_the_model_file():
    found = as_json("inspect", DIGITS / "digits.onnx", "--devices", "host")
    assert found["configuration"].endswith("examples/digits/millrace.json")
    assert found["labels"] == 10


def test_arguments_go_on_top_of_the_configuration(tmp_path):
    config = tmp_path / "millrace.json"
    config.write_text(json.dumps({"model": "reference:identity", "lanes": 2, "slots": 3, "devices": ["host"], "batching": {"max_items": 16}}))
    found = as_json("inspect", tmp_path)
    assert (found["placements"][0]["lanes"], found["placements"][0]["slots"], found["max_items"]) == (2, 3, 16)
    found = as_json("inspect", tmp_path, "--lanes", 1, "--slots", 1, "--batch", 4, "--devices", "host:0,host:1")
    assert [(p["device"], p["lanes"], p["slots"]) for p in found["placements"]] == [("host:0", 1, 1), ("host:1", 1, 1)]
    assert found["max_items"] == 4


def test_options_reach_the_backend():
    found = as_json("inspect", "reference:identity", "--option", "shape=3,4", "--devices", "host")
    assert found["inputs"][0]["shape"] == [-1, 3, 4]
    assert "shap" in fails(1, "inspect", "reference:identity", "--option", "shap=3")


def test_an_ensemble_loads_what_it_is_made_of(tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    (first / "millrace.json").write_text(json.dumps({"model": "reference:identity?shape=4"}))
    describe = as_json("inspect", first, "--devices", "host")
    x, y = describe["inputs"][0]["name"], describe["outputs"][0]["name"]
    ensemble = tmp_path / "whole"
    ensemble.mkdir()
    (ensemble / "millrace.json").write_text(json.dumps({
        "models": ["../first"],
        "ensemble": {"steps": [{"model": "first", "inputs": {x: "in"}, "outputs": {y: "middle"}},
                               {"model": "first", "inputs": {x: "middle"}, "outputs": {y: "out"}}], "outputs": ["out"]}}))
    found = as_json("inspect", ensemble, "--devices", "host")
    assert [t["name"] for t in found["inputs"]] == ["in"]
    assert [t["name"] for t in found["outputs"]] == ["out"]


@pytest.mark.parametrize("content, message", [
    ('{"model": "digits.onnx", "lane": 2}', 'did you mean "lanes"?'),
    ('{"model": "digits.onnx", "lanes": 0}', "lanes: expected a whole number from 1 to 1024, got 0"),
    ('{"model": "digits.onnx", "lanes": -1}', "lanes: expected a whole number from 1 to 1024, got -1"),
    ('{"model": ', "expected JSON"),
    ('{"model": "missing.onnx"}', "missing.onnx"),
    ('{"model": "reference:identity", "backend": "abacus"}', "abacus"),
    ('{"model": "reference:identity", "labels": "none.txt"}', "none.txt"),
    ('{"model": "reference:identity", "preprocess": {"x": {"scale": 1}}}', 'no input "x"'),
])
def test_bad_configurations_are_refused(tmp_path, content, message):
    (tmp_path / "millrace.json").write_text(content)
    assert message in fails(1, "inspect", tmp_path, "--devices", "host")


def test_bad_models_are_refused(tmp_path):
    assert "nothing.onnx" in fails(1, "inspect", tmp_path / "nothing.onnx")
    assert "expected millrace.json in it" in fails(1, "inspect", tmp_path)
    whole = (DIGITS / "digits.onnx").read_bytes()
    for name, content in (("empty", b""), ("short", whole[:1000]), ("text", b"no model at all\n"), ("half", whole[: len(whole) // 2])):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(content)
        assert f"{name}" in fails(1, "inspect", file, "--devices", "host")
    assert "abacus" in fails(1, "inspect", DIGITS, "--backend", "abacus")
    assert "levitate" in fails(1, "inspect", "reference:levitate", "--devices", "host")
    assert "cuda:77" in fails(1, "inspect", DIGITS, "--devices", "cuda:77")


def test_the_binary_is_the_one_of_this_tree():
    assert BINARY.is_file(), f"build it first, or name another with MILLRACE_BIN ({ROOT})"


def models_in(folder):
    """A folder of two models, one of which states what is not supported."""
    for name, config in (("good", 'max_batch_size: 16\noptimization { cuda { graphs: true } }\n'), ("bad", "sequence_batching { }\n")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.reference.json").write_text('{"kind": "identity"}')
        (folder / name / "config.pbtxt").write_text(config)
    return folder


def test_inspect_a_folder_of_models(tmp_path):
    done = millrace("inspect", models_in(tmp_path), "--devices", "host")
    assert done.returncode == 1 and done.stderr == ""
    assert "config.pbtxt:1:1: sequence_batching: not supported: " in done.stdout
    assert "runs are captured in CUDA graphs where" in done.stdout
    assert "version 1      READY" in done.stdout
    assert "expected --devices and --json alone" in fails(2, "inspect", tmp_path, "--lanes", 2)


def test_inspect_a_model_with_versions(tmp_path):
    found = as_json("inspect", models_in(tmp_path) / "good", "--devices", "host")
    [model] = found["models"]
    assert model["versions"] == [{"version": "1", "state": "READY", "reason": ""}]
    assert [(field["field"], field["kind"]) for field in model["fields"]] == [
        ("max_batch_size", "supported"), ("optimization.cuda", "hint")]
    assert "max_batch_size: 16" in model["served"][0]["config"]
    assert "TYPE_FP32" in model["served"][0]["config"]
