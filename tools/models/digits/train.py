#!/usr/bin/env python3
"""Trains the digits model and writes everything under examples/digits/ that is made from data.

The data are the 1,797 images of handwritten digits (8x8 pixels, values 0..16) that the scikit-learn
package carries. 1,437 of them train the network and 360 are held out: drawn once, stratified by
label, from a seed. The network and its gradients are written out below in numpy.

    train.py              train on the 1,437, measure on the 360, write the files
    train.py --validate   train on 1,150 of the 1,437 and measure on the other 287, for choosing
                          settings; the held-out images are not looked at and nothing is written
    train.py --check      train again and compare with the files that are there; write nothing

One machine with one set of packages gives the same bytes every time. Another BLAS, or another CPU
kernel of the same BLAS, rounds differently; training amplifies that, so the weights differ while
the accuracy stays about the same. --check reports which of the two it found.
"""

import os

# One thread, so that sums are taken in one order. Must precede the first import of numpy.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import struct
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

ROOT = Path(__file__).resolve().parents[3]
DEFAULT_FOLDER = ROOT / "examples" / "digits"

SEED = 20
HELD_OUT = 360
VALIDATION = 287
PIXEL_MAX = 16.0
CLASSES = 10

# Five convolutions at full resolution are more than these images need. They make a batch of 32 cost
# milliseconds on one core, so that the model is also a fair load for measuring.
CONV_CHANNELS = (64, 64, 64, 64, 64)
HIDDEN = 64

EPOCHS = 30
BATCH = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
DROPOUT = 0.3
IMAGES_PER_DIGIT = 2  # PNG files written for each of the ten digits

ACCURACY_FLOOR = 0.97
AGREEMENT_FLOOR = 0.97  # of two trainings on different machines, see --check


# --- data -----------------------------------------------------------------------------------------


def load_data():
    """Returns images [1797,8,8,1] float32 with values 0..16, and labels [1797] int64."""
    digits = load_digits()
    images = digits.images.astype(np.float32)[..., np.newaxis]
    return images, digits.target.astype(np.int64)


def split_indices(labels):
    """Returns (training, held out): indices into load_digits, each ascending, disjoint."""
    return stratified(np.arange(len(labels)), labels, HELD_OUT)


def stratified(indices, labels, second_size):
    first, second = train_test_split(
        indices, test_size=second_size, stratify=labels[indices], random_state=SEED
    )
    return np.sort(first), np.sort(second)


def shifted(images, rng):
    """Moves each image by -1, 0 or 1 pixel on each axis; what comes in at the edges is 0."""
    count, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    offsets = rng.integers(0, 3, size=(count, 2))
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + np.arange(width)
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


# --- network --------------------------------------------------------------------------------------
# Activations are [N,H,W,C], so that a convolution is one matrix product over gathered patches.
# Each layer keeps from forward() what its backward() needs. `grads` lines up with `params`.


class Conv3x3:
    """3x3 convolution, stride 1, zero padding 1. Weight rows are ordered (row, column, channel)."""

    def __init__(self, inputs, outputs, rng, dtype):
        scale = np.sqrt(2.0 / (9 * inputs))  # He et al. 2015
        weight = rng.standard_normal((9 * inputs, outputs)) * scale
        self.params = [weight.astype(dtype), np.zeros(outputs, dtype)]
        self.grads = [None, None]

    def forward(self, x, train):
        n, h, w, c = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        patches = np.empty((n, h, w, 9, c), x.dtype)
        for k in range(9):
            patches[:, :, :, k] = padded[:, k // 3 : k // 3 + h, k % 3 : k % 3 + w]
        self.patches = patches.reshape(n * h * w, 9 * c)
        return (self.patches @ self.params[0] + self.params[1]).reshape(n, h, w, -1)

    def backward(self, dy):
        n, h, w, outputs = dy.shape
        flat = dy.reshape(-1, outputs)
        self.grads = [self.patches.T @ flat, flat.sum(axis=0)]
        d_patches = (flat @ self.params[0].T).reshape(n, h, w, 9, -1)
        padded = np.zeros((n, h + 2, w + 2, d_patches.shape[-1]), dy.dtype)
        for k in range(9):
            padded[:, k // 3 : k // 3 + h, k % 3 : k % 3 + w] += d_patches[:, :, :, k]
        return padded[:, 1:-1, 1:-1]


class Dense:
    def __init__(self, inputs, outputs, rng, dtype):
        weight = rng.standard_normal((inputs, outputs)) * np.sqrt(2.0 / inputs)
        self.params = [weight.astype(dtype), np.zeros(outputs, dtype)]
        self.grads = [None, None]

    def forward(self, x, train):
        self.x = x
        return x @ self.params[0] + self.params[1]

    def backward(self, dy):
        self.grads = [self.x.T @ dy, dy.sum(axis=0)]
        return dy @ self.params[0].T


class Relu:
    params = grads = ()

    def forward(self, x, train):
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy):
        return dy * self.positive


class MaxPool2x2:
    params = grads = ()

    def forward(self, x, train):
        n, h, w, c = x.shape
        windows = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
        windows = windows.reshape(n, h // 2, w // 2, c, 4)
        self.winner = windows.argmax(axis=-1)[..., np.newaxis]
        return np.take_along_axis(windows, self.winner, axis=-1)[..., 0]

    def backward(self, dy):
        n, h, w, c = dy.shape
        dx = np.zeros((n, h, w, c, 4), dy.dtype)
        np.put_along_axis(dx, self.winner, dy[..., np.newaxis], axis=-1)
        dx = dx.reshape(n, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        return dx.reshape(n, 2 * h, 2 * w, c)


class Flatten:
    params = grads = ()

    def forward(self, x, train):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


class Dropout:
    """Only while training; kept values are scaled up so that inference needs no change."""

    params = grads = ()

    def __init__(self, rate, rng):
        self.rate, self.rng = rate, rng

    def forward(self, x, train):
        if not train:
            return x
        kept = self.rng.random(x.shape) >= self.rate
        self.mask = kept.astype(x.dtype) / x.dtype.type(1.0 - self.rate)
        return x * self.mask

    def backward(self, dy):
        return dy * self.mask


class Network:
    """Images [N,8,8,1] with values 0..16 to logits [N,10]."""

    def __init__(self, rng, dtype=np.float32, dropout=DROPOUT):
        self.convs = [Conv3x3(inputs, outputs, rng, dtype)
                      for inputs, outputs in zip((1, *CONV_CHANNELS), CONV_CHANNELS)]
        self.dense1 = Dense(4 * 4 * CONV_CHANNELS[-1], HIDDEN, rng, dtype)
        self.dense2 = Dense(HIDDEN, CLASSES, rng, dtype)
        self.layers = [layer for conv in self.convs for layer in (conv, Relu())]
        self.layers += [MaxPool2x2(), Flatten(), self.dense1, Relu(), Dropout(dropout, rng),
                        self.dense2]

    def params(self):
        return [p for layer in self.layers for p in layer.params]

    def grads(self):
        return [g for layer in self.layers for g in layer.grads]

    def forward(self, images, train=False):
        x = images * images.dtype.type(1.0 / PIXEL_MAX)
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def loss_and_backward(self, images, labels):
        """Returns the mean cross-entropy in nats and fills the gradients of every layer."""
        probabilities = softmax(self.forward(images, train=True))
        rows = np.arange(len(labels))
        loss = -np.log(probabilities[rows, labels]).mean()
        dy = probabilities.copy()
        dy[rows, labels] -= 1
        dy /= len(labels)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return loss


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Adam:
    """Adam (Kingma and Ba 2015) with decoupled weight decay on matrices, not on biases."""

    def __init__(self, params, beta1=0.9, beta2=0.999, epsilon=1e-8):
        self.params, self.beta1, self.beta2, self.epsilon = params, beta1, beta2, epsilon
        self.mean = [np.zeros_like(p) for p in params]
        self.square = [np.zeros_like(p) for p in params]
        self.steps = 0

    def step(self, grads, rate):
        self.steps += 1
        mean_scale = 1.0 / (1.0 - self.beta1**self.steps)
        square_scale = 1.0 / (1.0 - self.beta2**self.steps)
        for p, g, m, s in zip(self.params, grads, self.mean, self.square):
            m += (1.0 - self.beta1) * (g - m)
            s += (1.0 - self.beta2) * (g * g - s)
            if p.ndim > 1:
                p -= rate * WEIGHT_DECAY * p
            p -= rate * mean_scale * m / (np.sqrt(square_scale * s) + self.epsilon)


def train(images, labels, epochs, progress):
    """Returns the network trained on these images alone, shifted at random, in float32."""
    rng = np.random.default_rng(SEED)
    network = Network(rng)
    adam = Adam(network.params())
    steps = epochs * -(-len(images) // BATCH)
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        losses = []
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            losses.append(network.loss_and_backward(shifted(images[batch], rng), labels[batch]))
            rate = LEARNING_RATE * 0.5 * (1.0 + np.cos(np.pi * adam.steps / steps))
            adam.step(network.grads(), float(rate))
        progress(epoch + 1, float(np.mean(losses)), network)
    return network


# --- files ----------------------------------------------------------------------------------------


def conv_weight(conv):
    """[9*C,O] with rows (row, column, channel), to the [O,C,3,3] of ONNX."""
    weight, _ = conv.params
    return weight.reshape(3, 3, -1, weight.shape[1]).transpose(3, 2, 0, 1)


def dense_after_flatten(dense, height, width):
    """Reorders rows from (row, column, channel) to the (channel, row, column) of ONNX."""
    weight, _ = dense.params
    return weight.reshape(height, width, -1, weight.shape[1]).transpose(2, 0, 1, 3).reshape(
        weight.shape)


def onnx_model(network, metadata):
    weights = {"scale": np.array(1.0 / PIXEL_MAX, np.float32)}
    nodes = []

    def add(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def add_weighted(op, name, x, weight, bias, **attributes):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = weight, bias
        return add(op, [x, f"{name}.weight", f"{name}.bias"], name, **attributes)

    x = add("Mul", ["images", "scale"], "scaled")
    for i, conv in enumerate(network.convs, start=1):
        x = add_weighted("Conv", f"conv{i}", x, conv_weight(conv), conv.params[1],
                         kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = add("Relu", [x], f"conv{i}.relu")
    x = add("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = add("Flatten", [x], "flat", axis=1)
    x = add_weighted("Gemm", "dense1", x, dense_after_flatten(network.dense1, 4, 4),
                     network.dense1.params[1])
    x = add("Relu", [x], "dense1.relu")
    x = add_weighted("Gemm", "dense2", x, *network.dense2.params)
    add("Softmax", [x], "probabilities", axis=1)

    graph = helper.make_graph(
        nodes, "digits",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in weights.items()])
    model = helper.make_model(graph, producer_name="millrace", ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17)])
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model


def predict(model, images):
    """Probabilities [N,10] that the ONNX graph itself gives for images [N,1,8,8]."""
    return ReferenceEvaluator(model).run(None, {"images": images})[0]


def accuracy_of(probabilities, labels):
    return float((probabilities.argmax(axis=1) == labels).mean())


def png_gray8(pixels):
    """The bytes of an 8-bit grayscale PNG of pixels [H,W] uint8; stored, not compressed."""
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, body):
        named = kind + body
        return struct.pack(">I", len(body)) + named + struct.pack(">I", zlib.crc32(named))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b""))


def image_files(images, labels, indices):
    """{LABEL_INDEX.png: bytes} of the first few held-out images of every digit, by index."""
    files = {}
    for digit in range(CLASSES):
        for index in [i for i in indices if labels[i] == digit][:IMAGES_PER_DIGIT]:
            gray = np.rint(images[index, :, :, 0] * (255.0 / PIXEL_MAX)).astype(np.uint8)
            files[f"{digit}_{index}.png"] = png_gray8(gray)
    return files


def write_files(folder, model, images, labels, held_out):
    pictures = folder / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    for stale in pictures.glob("*.png"):
        stale.unlink()
    for name, content in image_files(images, labels, held_out).items():
        (pictures / name).write_bytes(content)
    (folder / "digits.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (folder / "labels.txt").write_text("".join(f"{d}\n" for d in range(CLASSES)))
    np.savez(folder / "held_out.npz", images=nchw(images[held_out]), labels=labels[held_out],
             index=held_out.astype(np.int64))


def nchw(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# --- commands -------------------------------------------------------------------------------------


def validate(images, labels, epochs):
    training, _ = split_indices(labels)
    fitting, validation = stratified(training, labels, VALIDATION)

    def progress(epoch, loss, network):
        right = network.forward(images[validation]).argmax(axis=1) == labels[validation]
        print(f"epoch {epoch:2d}  loss {loss:.4f}  validation {right.sum()} of {len(right)}"
              f" = {right.mean():.4f}", flush=True)

    train(images[fitting], labels[fitting], epochs, progress)
    return 0


def build(images, labels):
    """Trains on the training part; returns (model, held-out indices, accuracy on those)."""
    training, held_out = split_indices(labels)
    assert not np.intersect1d(training, held_out).size
    network = train(images[training], labels[training], EPOCHS,
                    lambda epoch, loss, _: print(f"epoch {epoch:2d}  loss {loss:.4f}", flush=True))
    metadata = {
        "labels": ",".join(str(d) for d in range(CLASSES)),
        "split": f"{len(training)} training, {len(held_out)} held out, stratified by label",
        "seed": str(SEED),
    }
    accuracy = accuracy_of(predict(onnx_model(network, metadata), nchw(images[held_out])),
                           labels[held_out])
    return onnx_model(network, metadata | {"accuracy": f"{accuracy:.4f}"}), held_out, accuracy


def check(folder, model, images, labels, held_out):
    """Compares a new training with the files in `folder`; returns the exit status."""
    there = onnx.load(folder / "digits.onnx")
    saved = np.load(folder / "held_out.npz")
    same_data = (np.array_equal(saved["index"], held_out)
                 and np.array_equal(saved["images"], nchw(images[held_out]))
                 and np.array_equal(saved["labels"], labels[held_out]))
    if not same_data:
        print(f"{folder / 'held_out.npz'}: expected the {len(held_out)} images of the seeded split,"
              " found others; run train.py without --check to write them", file=sys.stderr)
        return 1
    old, new = (predict(m, saved["images"]) for m in (there, model))
    agreement = float((old.argmax(axis=1) == new.argmax(axis=1)).mean())
    old_accuracy, new_accuracy = (accuracy_of(p, saved["labels"]) for p in (old, new))
    new_bytes = model.SerializeToString(deterministic=True)
    same_bytes = (folder / "digits.onnx").read_bytes() == new_bytes
    print(f"bytes         {'identical' if same_bytes else 'different (another BLAS or package?)'}")
    print(f"accuracy      file {old_accuracy:.4f}, trained again {new_accuracy:.4f}")
    print(f"same answer   {agreement:.4f} of the held-out images")
    print(f"probabilities differ by at most {np.abs(old - new).max():.3g}")
    if min(old_accuracy, new_accuracy) < ACCURACY_FLOOR or agreement < AGREEMENT_FLOOR:
        print(f"expected both accuracies >= {ACCURACY_FLOOR} and the same answer for >="
              f" {AGREEMENT_FLOOR} of the images", file=sys.stderr)
        return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description="Trains the digits model of examples/digits/.")
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
                        help="folder to write to, or to compare with (default: examples/digits)")
    parser.add_argument("--epochs", type=int, default=EPOCHS,
                        help="passes over the data, with --validate only (default: %(default)s)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--validate", action="store_true",
                      help="measure on a part of the training images; write nothing")
    mode.add_argument("--check", action="store_true",
                      help="train again and compare with the files; write nothing")
    options = parser.parse_args()
    if options.epochs < 1 or (options.epochs != EPOCHS and not options.validate):
        parser.error(f"--epochs: expected a count of 1 or more, together with --validate;"
                     f" got {options.epochs}")
    for name in ("digits.onnx", "held_out.npz") if options.check else ():
        if not (options.out / name).is_file():
            parser.error(f"--check: expected {options.out / name}, found no such file;"
                         " run without --check to write it")

    images, labels = load_data()
    if options.validate:
        return validate(images, labels, options.epochs)
    started = time.monotonic()
    model, held_out, accuracy = build(images, labels)
    print(f"trained in {time.monotonic() - started:.0f} s")
    if options.check:
        return check(options.out, model, images, labels, held_out)
    if accuracy < ACCURACY_FLOOR:
        print(f"held-out accuracy: expected >= {ACCURACY_FLOOR}, got {accuracy:.4f};"
              " nothing written", file=sys.stderr)
        return 1
    write_files(options.out, model, images, labels, held_out)
    right = round(accuracy * len(held_out))
    print(f"accuracy {accuracy:.4f} ({right} of {len(held_out)} held-out images);"
          f" wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
