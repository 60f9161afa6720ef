"""The digits example: the files agree with each other, with their source and with their README."""

import importlib.util
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "digits"
SCRIPT = ROOT / "tools" / "models" / "digits" / "train.py"


@pytest.fixture(scope="module")
def model():
    return onnx.load(FOLDER / "digits.onnx")


@pytest.fixture(scope="module")
def held_out():
    with np.load(FOLDER / "held_out.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def accuracy(model, held_out):
    probabilities = ReferenceEvaluator(model).run(None, {"images": held_out["images"]})[0]
    assert probabilities.shape == (360, 10) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    return (probabilities.argmax(axis=1) == held_out["labels"]).mean()


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("digits_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_accuracy_on_held_out_images(accuracy):
    assert accuracy >= 0.97


def test_stated_accuracy_is_the_measured_one(model, accuracy):
    metadata = {p.key: p.value for p in model.metadata_props}
    readme = (FOLDER / "README.md").read_text()
    assert metadata["accuracy"] == f"{accuracy:.4f}"
    assert f"Held-out accuracy: {accuracy:.4f} ({round(accuracy * 360)} of 360)." in readme


def test_model_file_and_interface(model):
    size_bytes = (FOLDER / "digits.onnx").stat().st_size
    assert size_bytes < 1_000_000
    assert f"{size_bytes:,} bytes" in (FOLDER / "README.md").read_text()

    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.producer_name) == (8, "millrace")
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["labels"].split(",") == (FOLDER / "labels.txt").read_text().split()
    assert metadata["labels"] == "0,1,2,3,4,5,6,7,8,9"
    assert metadata["split"].startswith("1437 training, 360 held out")

    def described(value):
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    fp32 = onnx.TensorProto.FLOAT
    assert [described(v) for v in model.graph.input] == [("images", fp32, ["N", 1, 8, 8])]
    assert [described(v) for v in model.graph.output] == [("probabilities", fp32, ["N", 10])]


def test_held_out_images_are_the_ones_of_the_data(held_out):
    digits = load_digits()
    index = held_out["index"]
    assert {name: (a.shape, a.dtype.name) for name, a in held_out.items()} == {
        "images": ((360, 1, 8, 8), "float32"), "labels": ((360,), "int64"),
        "index": ((360,), "int64")}
    np.testing.assert_array_equal(held_out["images"][:, 0], digits.images[index])
    np.testing.assert_array_equal(held_out["labels"], digits.target[index])


def test_no_held_out_image_is_in_the_training_part(held_out, train):
    images, labels = train.load_data()
    training, kept = train.split_indices(labels)
    assert len(training) == 1437
    np.testing.assert_array_equal(held_out["index"], kept)
    assert len(np.union1d(training, kept)) == 1797
    trained_on = {images[i].tobytes() for i in training}
    assert not [i for i in kept if images[i].tobytes() in trained_on]
    for digit in range(10):  # stratified: every digit to within one image of its share
        share = (labels == digit).sum() * 360 / 1797
        assert abs((held_out["labels"] == digit).sum() - share) <= 1


def decode_png(content):
    """Pixels of an 8-bit grayscale PNG whose rows have no filter; checks every checksum."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        body = content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += length + 12
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(8, 9)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_png_files_show_held_out_images(held_out):
    files = sorted((FOLDER / "images").iterdir())
    assert [int(f.name[0]) for f in files] == [d for d in range(10) for _ in range(2)]
    for file in files:
        label, index = map(int, re.fullmatch(r"(\d)_(\d+)\.png", file.name).groups())
        (row,) = np.flatnonzero(held_out["index"] == index)
        assert held_out["labels"][row] == label
        expected = np.rint(held_out["images"][row, 0] * 255 / 16)
        np.testing.assert_array_equal(decode_png(file.read_bytes()), expected)


def test_gradients_match_finite_differences(train):
    """On noise: the flat background of a digit lies on the kink of ReLU and ties in pools."""
    rng = np.random.default_rng(3)
    images, labels = rng.uniform(0, 16, (4, 8, 8, 1)), rng.integers(0, 10, 4)
    network = train.Network(rng, dtype=np.float64, dropout=0.0)
    network.loss_and_backward(images, labels)
    step = 1e-6
    for param, grad in zip(network.params(), [g.copy() for g in network.grads()]):
        assert param.shape == grad.shape
        for at in [tuple(rng.integers(0, n) for n in param.shape) for _ in range(4)]:
            kept = param[at]
            param[at] = kept + step
            above = network.loss_and_backward(images, labels)
            param[at] = kept - step
            below = network.loss_and_backward(images, labels)
            param[at] = kept
            assert grad[at] == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-7)


def test_exported_graph_equals_the_network(train):
    """An untrained network will do: this is about the order of axes and the scaling."""
    images, _ = train.load_data()
    network = train.Network(np.random.default_rng(4))
    expected = train.softmax(network.forward(images[:8]))
    actual = train.predict(train.onnx_model(network, {}), train.nchw(images[:8]))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("arguments, message", [
    (["--validate", "--epochs", "0"], "expected a count of 1 or more"),
    (["--epochs", "3"], "together with --validate"),
    (["--check", "--out", "/nonexistent"], "found no such file"),
    (["--check", "--validate"], "not allowed with"),
])
def test_wrong_usage_is_refused(arguments, message):
    done = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
