"""millrace run: arrays, pictures, folders; every form of the results; bad input."""

import json
import os
import pty
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from cli_helpers import BINARY, DIGITS, LATENCY, NUMBER, as_json, check_schema, fails, held_out, millrace, png, succeeds
from onnx.reference import ReferenceEvaluator

HOST = ("--devices", "host")
IDENTITY = "reference:identity?"


@pytest.fixture(scope="module")
def data():
    return held_out()


@pytest.fixture(scope="module")
def expected(data):
    return ReferenceEvaluator(onnx.load(DIGITS / "digits.onnx")).run(None, {"images": data["images"]})[0]


def names_of(model):
    found = as_json("inspect", model, *HOST)
    return found["inputs"][0]["name"], found["outputs"][0]["name"]


RUN = {
    "model": str, "backend": str, "devices": [str], "items": int, "requests": int, "seconds": NUMBER, "items_per_s": NUMBER,
    "latency_us": LATENCY, "files": [str],
    "outputs": [{"name": str, "type": str, "shape": str, "elements": int, "min?": NUMBER, "mean?": NUMBER, "max?": NUMBER, "nan?": int}],
    "results": [{"item": str, "top": [{"label": str, "class": int, "score": NUMBER}]}],
}


def test_an_archive_of_all_held_out_images(tmp_path, data, expected):
    found = as_json("run", DIGITS, "--input", DIGITS / "held_out.npz", "--output", tmp_path / "new" / "folder", *HOST)
    check_schema(found, RUN)
    assert found["items"] == 360 and found["backend"] == "onnxruntime" and found["devices"] == ["host:0"]
    assert found["outputs"][0]["shape"] == "[360,10]" and found["outputs"][0]["type"] == "FP32"
    assert found["outputs"][0]["mean"] == pytest.approx(0.1, abs=1e-4)
    assert found["files"] == [str(tmp_path / "new" / "folder" / "outputs.npz")]
    with np.load(found["files"][0]) as outputs:
        assert outputs.files == ["probabilities"]
        np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    assert [r["item"] for r in found["results"]] == [str(i) for i in range(360)]
    best = np.array([int(r["top"][0]["label"]) for r in found["results"]])
    np.testing.assert_array_equal(best, expected.argmax(axis=1))
    assert (best == data["labels"]).mean() >= 0.97


def test_a_named_array_and_the_table(tmp_path, data):
    np.save(tmp_path / "images.npy", data["images"][:25])
    text = succeeds("run", DIGITS / "digits.onnx", "--input", f"images={tmp_path / 'images.npy'}", "--top", 2, *HOST)
    rows = [line.split() for line in text.splitlines()]
    assert rows[0][0] == "0" and rows[0][1] == str(data["labels"][0]) and rows[0][2].endswith("%")
    assert "... and 5 more" in text
    assert any(row[:3] == ["probabilities", "FP32", "[25,10]"] for row in rows if row)
    assert "25 items in" in text


def test_one_picture():
    found = as_json("run", DIGITS, "--input", DIGITS / "images" / "3_45.png", *HOST)
    assert found["results"][0]["item"] == "3_45.png"
    assert found["results"][0]["top"][0]["label"] == "3"
    assert len(found["results"][0]["top"]) == 3


def test_a_folder_of_pictures_in_order_of_names():
    text = succeeds("run", DIGITS, "--input", f"images={DIGITS / 'images'}", *HOST)
    rows = [line.split() for line in text.splitlines() if ".png" in line]
    names = sorted(p.name for p in (DIGITS / "images").iterdir())
    assert [row[0] for row in rows] == names
    assert sum(row[0][0] == row[1] for row in rows) >= 19


def test_pictures_and_their_arrays_give_the_same(tmp_path, data, expected):
    found = [json.loads(line) for line in succeeds("run", DIGITS, "-i", DIGITS / "images", "--format", "jsonl", *HOST).splitlines()]
    assert len(found) == 20
    for line in found:
        index = int(line["item"].removesuffix(".png").split("_")[1])
        (row,) = np.flatnonzero(data["index"] == index)
        # A PNG holds whole numbers of 0 to 255: the pixels are off by up to half a step.
        np.testing.assert_allclose(line["outputs"]["probabilities"], expected[row], atol=0.05)
        assert line["top"][0]["class"] == int(expected[row].argmax())


def test_json_lines_hold_every_value_in_order(tmp_path):
    x, y = names_of(IDENTITY + "shape=2,3&type=int64")
    values = np.arange(100 * 6, dtype=np.int64).reshape(100, 2, 3) - 2**40
    np.save(tmp_path / "x.npy", values)
    done = succeeds("run", IDENTITY + "shape=2,3&type=int64", "--input", f"{x}={tmp_path / 'x.npy'}", "--format", "jsonl", "--batch", 7, *HOST)
    lines = [json.loads(line) for line in done.splitlines()]
    assert [line["item"] for line in lines] == [str(i) for i in range(100)]
    np.testing.assert_array_equal([line["outputs"][y] for line in lines], values)
    succeeds("run", IDENTITY + "shape=2,3&type=int64", "--input", tmp_path / "x.npy", "--format", "jsonl", "--output", tmp_path, *HOST)
    assert (tmp_path / "outputs.jsonl").read_text() == done


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"])
def test_arrays_of_every_type_come_through_unchanged(tmp_path, dtype):
    """In C and Fortran order and of either byte order, from NumPy and back."""
    model = IDENTITY + f"shape=3,2&type={dtype}"
    x, y = names_of(model)
    values = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (5, 3, 2)).astype(dtype)
    for name, array in (("c", values), ("fortran", np.asfortranarray(values)), ("big", values.astype(values.dtype.newbyteorder(">")))):
        np.save(tmp_path / f"{name}.npy", array)
        succeeds("run", model, "--input", f"{x}={tmp_path / name}.npy", "--output", tmp_path / name, *HOST)
        with np.load(tmp_path / name / "outputs.npz") as outputs:
            assert outputs[y].dtype == values.dtype
            np.testing.assert_array_equal(outputs[y], values)


def test_texts_come_through_unchanged(tmp_path):
    model = IDENTITY + "shape=2&type=bytes"
    x, y = names_of(model)
    np.savez_compressed(tmp_path / "x.npz", **{x: np.array([["ab", "é€"], ["", "long text"]])})
    succeeds("run", model, "--input", tmp_path / "x.npz", "--output", tmp_path, *HOST)
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert [t.decode() for t in outputs[y].flat] == ["ab", "é€", "", "long text"]
    line = json.loads(succeeds("run", model, "--input", tmp_path / "x.npz", "--format", "jsonl", *HOST).splitlines()[0])
    assert line["outputs"][y] == ["ab", "é€"]


def test_several_inputs(tmp_path):
    model = "reference:add?shape=4"
    found = as_json("inspect", model, *HOST)
    names = [t["name"] for t in found["inputs"]]
    assert len(names) == 2
    a, b = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 4), np.float32)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "b.npz", anything=b)  # the only array of an archive needs no name
    succeeds("run", model, "--input", f"{names[0]}={tmp_path / 'a.npy'}", f"{names[1]}={tmp_path / 'b.npz'}", "--output", tmp_path, *HOST)
    with np.load(tmp_path / "outputs.npz") as outputs:
        np.testing.assert_array_equal(outputs[outputs.files[0]], a + b)
    assert "expected name=FILE" in fails(2, "run", model, "--input", tmp_path / "a.npy", *HOST)
    assert f'"{names[1]}" is missing' in fails(1, "run", model, "--input", f"{names[0]}={tmp_path / 'a.npy'}", *HOST)
    np.save(tmp_path / "short.npy", b[:2])
    assert "disagree" in fails(1, "run", model, "--input", f"{names[0]}={tmp_path / 'a.npy'}", f"{names[1]}={tmp_path / 'short.npy'}", *HOST)


def test_preprocessing_on_the_command_line_goes_on_top(tmp_path):
    model = IDENTITY + "shape=3,2,2"
    x, y = names_of(model)
    pixels = np.array([[[255, 0, 51], [0, 102, 0]], [[10, 20, 30], [1, 2, 3]]], np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels))

    def run(text):
        line = succeeds("run", model, "-i", f"{x}={tmp_path / 'a.png'}", "--preprocess", text, "--format", "jsonl", *HOST)
        return np.array(json.loads(line)["outputs"][y])

    np.testing.assert_allclose(run("scale=1"), pixels.transpose(2, 0, 1))
    np.testing.assert_allclose(run("scale=1/255,channels=bgr,mean=0.5,std=0.25"), (pixels[..., ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.25, rtol=1e-5)
    (tmp_path / "a.png").write_bytes(png(np.kron(pixels, np.ones((2, 2, 1), np.uint8))))
    np.testing.assert_allclose(run("scale=1,filter=bilinear"), pixels.transpose(2, 0, 1), err_msg="equal quarters stay themselves")
    assert "--preprocess" in fails(1, "run", model, "-i", tmp_path / "a.png", *HOST)
    assert 'did you mean "scale"?' in fails(2, "run", model, "-i", tmp_path / "a.png", "--preprocess", "scal=1", *HOST)
    assert "resize" in fails(2, "run", model, "-i", tmp_path / "a.png", "--preprocess", "resize=0x0", *HOST)


def test_labels_on_the_command_line(tmp_path):
    labels = tmp_path / "names.txt"
    labels.write_text("\n".join("zero one two three four five six seven eight nine".split()))
    found = as_json("run", DIGITS, "-i", DIGITS / "images" / "7_44.png", "--labels", labels, "--top", 10, *HOST)
    top = found["results"][0]["top"]
    assert top[0]["label"] == "seven" and len(top) == 10
    assert sum(t["score"] for t in top) == pytest.approx(1, abs=1e-4)
    assert [t["score"] for t in top] == sorted((t["score"] for t in top), reverse=True)


def test_trace_is_valid_and_tells_of_every_batch(tmp_path):
    trace = tmp_path / "trace.json"
    succeeds("run", DIGITS, "-i", DIGITS / "held_out.npz", "--batch", 32, "--trace", trace, *HOST)
    events = json.loads(trace.read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {"host:0"}
    computed = [e for e in spans if e["cat"] == "compute"]
    assert sum(e["args"]["items"] for e in computed) == 360, "every batch is sampled"
    ends = {}
    for event in spans:
        track = (event["pid"], event["tid"])
        assert event["ts"] >= ends.get(track, 0) - 0.002 and event["dur"] >= 0  # microseconds with three digits
        ends[track] = event["ts"] + event["dur"]


def test_progress_is_shown_on_a_terminal_only():
    main, other = pty.openpty()
    done = subprocess.run([BINARY, "run", DIGITS, "-i", DIGITS / "images", *HOST], stdout=subprocess.PIPE, stderr=other, timeout=120)
    os.close(other)
    shown = os.read(main, 65536).decode()
    os.close(main)
    assert done.returncode == 0
    assert "images/s" in shown and "/20 images" in shown
    assert shown.endswith("\r\x1b[K"), "the line is taken away at the end"
    assert millrace("run", DIGITS, "-i", DIGITS / "images", *HOST).stderr == ""


def test_bad_files_are_refused(tmp_path):
    def refused(name, content=None):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        message = fails(1, "run", DIGITS, "--input", f"images={file}", *HOST)
        assert name in message
        return message

    assert "no such file" in refused("missing.npy")
    assert "no such file" in refused("missing-folder")
    assert "93NUMPY" in refused("text.npy", b"hello")
    assert "directory" in refused("text.npz", b"hello")
    assert "cannot be decoded" in refused("text.png", b"hello")
    assert "cannot be decoded" in refused("empty.jpg", b"")
    assert "cannot be decoded" in refused("short.png", (DIGITS / "images" / "3_45.png").read_bytes()[:60])
    assert "expected a name that ends in" in refused("data.csv", b"1,2")
    (tmp_path / "nothing").mkdir()
    assert "holds no picture" in refused("nothing")
    np.savez(tmp_path / "other.npz", a=np.zeros(1), b=np.zeros(1))
    assert 'got "a", "b"' in refused("other.npz")


def test_an_unreadable_picture_in_a_folder_is_named(tmp_path):
    shutil.copytree(DIGITS / "images", tmp_path / "images")
    (tmp_path / "images" / "5_broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    message = fails(1, "run", DIGITS, "-i", tmp_path / "images", "--output", tmp_path / "out", *HOST)
    assert "5_broken.png" in message
    assert list((tmp_path / "out").iterdir()) == [], "nothing half done is left"


@pytest.mark.parametrize("array, found", [
    (np.zeros((2, 1, 8, 8), np.float64), "[2,1,8,8] FP64"),
    (np.zeros((2, 1, 8, 9), np.float32), "[2,1,8,9] FP32"),
    (np.zeros((2, 8, 8), np.float32), "[2,8,8] FP32"),
    (np.zeros((), np.float32), "[] FP32"),
    (np.zeros((2, 3, 8, 8), np.uint8), "[2,3,8,8] UINT8"),
])
def test_wrong_types_ranks_and_dimensions_are_refused(tmp_path, array, found):
    np.save(tmp_path / "x.npy", array)
    message = fails(1, "run", DIGITS, "--input", tmp_path / "x.npy", *HOST)
    assert f'input "images": expected [-1,1,8,8] FP32, got {found} from' in message
    assert "millrace inspect" in message


def test_wrong_names_and_counts_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 1, 8, 8), np.float32))
    assert 'no input "picture"; its inputs are "images"' in fails(1, "run", DIGITS, "--input", f"picture={tmp_path / 'x.npy'}", *HOST)
    assert "holds no items" in fails(1, "run", DIGITS, "--input", tmp_path / "x.npy", *HOST)
    np.save(tmp_path / "y.npy", np.zeros((1, 1, 8, 8), np.float32))
    assert "given twice" in fails(1, "run", DIGITS, "--input", tmp_path / "y.npy", tmp_path / "y.npy", *HOST)
    assert "expected name=FILE" in fails(2, "run", DIGITS, "--input", "images=", *HOST)
    assert "none.txt" in fails(1, "run", DIGITS, "--input", tmp_path / "y.npy", "--labels", "none.txt", *HOST)


def test_a_small_queue_is_not_overrun(tmp_path):
    (tmp_path / "millrace.json").write_text(json.dumps({"model": IDENTITY + "shape=2", "limits": {"max_requests": 1}, "batching": {"max_items": 1}}))
    np.save(tmp_path / "x.npy", np.ones((200, 2), np.float32))
    assert as_json("run", tmp_path, "--input", tmp_path / "x.npy", *HOST)["requests"] == 200


def test_a_failing_backend_ends_with_its_message(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 16), np.float32))
    message = fails(1, "run", "reference:fail?at=1", "--input", tmp_path / "x.npy", *HOST)
    assert message


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("NOT CHECKED: mounting a tiny file system needs root")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("form", ["npz", "jsonl"])
def test_a_full_disk_leaves_a_message_and_no_file(tmp_path, tiny_disk, form):
    np.save(tmp_path / "x.npy", np.ones((5000, 16), np.float32))
    message = fails(1, "run", IDENTITY + "shape=16", "--input", tmp_path / "x.npy", "--format", form, "--output", tiny_disk, *HOST)
    assert f"outputs.{form}" in message and "No space left on device" in message
    assert list(tiny_disk.iterdir()) == []


def test_what_cannot_be_written_is_said(tmp_path):
    image = DIGITS / "images" / "3_45.png"
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in fails(1, "run", DIGITS, "-i", image, "--output", tmp_path / "file" / "x", *HOST)
    assert "No space left on device" in fails(1, "run", DIGITS, "-i", image, "--trace", "/dev/full", *HOST)
    with open("/dev/full", "w") as full:
        assert "standard output" in fails(1, "run", DIGITS, "-i", image, *HOST, stdout=full)
