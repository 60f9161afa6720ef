"""millrace demo: what it says is computed when it runs."""

import os
import pty
import re
import subprocess

import numpy as np
import pytest
from cli_helpers import BINARY, DIGITS, LATENCY, NUMBER, ROOT, as_json, check_schema, fails, held_out, succeeds

QUICK = ("--duration", "0.3", "--devices", "host")

STRETCH = {
    "in_flight": int, "answers": int, "seconds": NUMBER, "images_per_s": NUMBER, "latency_us": LATENCY,
    "phases_us": {phase: LATENCY for phase in ("queue", "stage", "copy_in", "compute", "copy_out", "complete", "total")},
    "batches": int, "batch_items": {"mean": NUMBER, "max": int}, "images_by_device": dict,
}
DEMO = {
    "model": str, "path": str, "backend": str, "backend_version": str, "labels_from": str, "images": int, "correct": int,
    "accuracy": NUMBER, "answers_that_changed": int, "runs": [STRETCH],
    "ran_on": [{"device": str, "name": str, "lanes": int, "slots": int}],
    "samples": [{"image": int, "label": str, "guesses": [{"label": str, "probability": NUMBER}]}],
}


@pytest.fixture(scope="module")
def demo():
    return as_json("demo", *QUICK)


def test_json(demo):
    check_schema(demo, DEMO)
    assert demo["images"] == 360
    assert demo["accuracy"] == pytest.approx(demo["correct"] / 360)
    assert demo["accuracy"] >= 0.97
    assert demo["answers_that_changed"] == 0
    assert demo["backend"] == "onnxruntime" and demo["backend_version"].startswith("1.")


def test_figures_fit_each_other(demo):
    full, single = demo["runs"]
    assert (full["in_flight"], single["in_flight"]) == (64, 1)
    assert full["answers"] >= 360
    for run in (full, single):
        assert run["images_per_s"] == pytest.approx(run["answers"] / run["seconds"])
        assert sum(run["images_by_device"].values()) == run["answers"]
        latency = run["latency_us"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert run["batches"] <= run["answers"]
    assert single["batch_items"]["max"] == 1
    assert full["batch_items"]["mean"] > 1, "requests of many callers are combined"


def test_accuracy_is_computed_from_the_labels(tmp_path, demo):
    """Shuffled labels are right one time in ten."""
    data = held_out()
    shuffled = tmp_path / "labels.npz"
    np.savez(shuffled, labels=np.random.default_rng(0).permutation(data["labels"]))
    found = as_json("demo", *QUICK, "--labels", shuffled)
    assert found["labels_from"] == str(shuffled)
    assert 0.03 < found["accuracy"] < 0.2
    # Labels of which exactly 90 are wrong: what was right before and is untouched stays right.
    some = data["labels"].copy()
    some[:90] = (some[:90] + 5) % 10
    np.savez(shuffled, labels=some)
    assert abs(as_json("demo", *QUICK, "--labels", shuffled)["correct"] - (demo["correct"] - 90)) <= 2


def test_accuracy_is_that_of_the_images(tmp_path):
    """The same labels with images that were turned upside down: far fewer are right, but not by chance."""
    example = tmp_path / "digits"
    example.mkdir()
    for name in ("digits.onnx", "labels.txt", "millrace.json"):
        (example / name).write_bytes((DIGITS / name).read_bytes())
    data = held_out()
    data["images"] = data["images"][:, :, ::-1, :]
    np.savez(example / "held_out.npz", **data)
    assert as_json("demo", *QUICK, "--path", example)["accuracy"] < 0.7


def test_samples_show_what_the_model_said(demo):
    assert len(demo["samples"]) == 6
    labels = held_out()["labels"]
    for sample in demo["samples"]:
        assert sample["label"] == str(labels[sample["image"]])
        shares = [g["probability"] for g in sample["guesses"]]
        assert shares == sorted(shares, reverse=True) and len(shares) == 3
    wrong = [s for s in demo["samples"] if s["guesses"][0]["label"] != s["label"]]
    assert len(wrong) == min(1, demo["images"] - demo["correct"])


def test_text_without_a_terminal_is_plain():
    text = succeeds("demo", *QUICK, env={"LC_ALL": "C"})
    assert text.isascii() and "\033" not in text
    assert re.search(r"accuracy +0\.9[789]\d\d", text) or "accuracy  1.0000" in text
    for word in ("images/s", "p50", "p90", "p99", "queue", "compute", "host:0", "onnxruntime 1.", "label"):
        assert word in text, text
    assert "@@" in text, "pictures are drawn"
    assert max(map(len, text.splitlines())) <= 100


def test_text_in_a_utf8_locale_uses_blocks():
    text = succeeds("demo", *QUICK, env={"LC_ALL": "C.UTF-8"})
    assert "██" in text and "\033" not in text


def on_a_terminal(env):
    main, other = pty.openpty()
    process = subprocess.Popen([BINARY, "demo", *QUICK], stdout=other, stderr=subprocess.DEVNULL,
                               env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env})
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait(timeout=120) == 0
    return shown.decode()


def test_colours_on_a_terminal_only_where_wanted():
    assert "\033[48;5;" in on_a_terminal({})
    assert "\033" not in on_a_terminal({"NO_COLOR": "1"})
    assert "\033" not in on_a_terminal({"TERM": "dumb"})


def test_the_example_is_found_from_anywhere(tmp_path):
    if ROOT not in BINARY.resolve().parents:
        pytest.skip("NOT CHECKED: the program is not in the repository")
    assert as_json("demo", *QUICK, cwd=tmp_path)["images"] == 360


def test_bad_input_is_refused(tmp_path):
    assert "millrace.json" in fails(1, "demo", "--path", tmp_path) or "held_out.npz" in fails(1, "demo", "--path", tmp_path)
    labels = tmp_path / "labels.npz"
    assert "labels.npz" in fails(1, "demo", *QUICK, "--labels", labels)
    np.savez(labels, labels=np.zeros(359, np.int64))
    assert "expected \"labels\" to be INT64 [360], got INT64 [359]" in fails(1, "demo", *QUICK, "--labels", labels)
    np.savez(labels, labels=np.zeros(360, np.float32))
    assert "got FP32 [360]" in fails(1, "demo", *QUICK, "--labels", labels)
    np.savez(labels, answers=np.zeros(360, np.int64))
    assert 'expected an array "labels"' in fails(1, "demo", *QUICK, "--labels", labels)
    assert "abacus" in fails(1, "demo", *QUICK, "--backend", "abacus")
