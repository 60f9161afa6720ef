#!/usr/bin/env python3
"""Runs written models with ONNX Runtime on the CPU and says what is wrong with their answers, if anything.

    check.py DIR/resnet50.onnx DIR/mlp.onnx ...

Of each file: answers have the declared shapes at batch 1 and 3, are finite, differ from input to input and within an
answer, and a row of a batch is what its input gives alone. With every intermediate tensor made an output, the largest
absolute value must be far below what FP16 can hold (65,504), and no tensor may have died away. Inputs rounded to FP16
must give nearly the same answers, or runs in different precisions could not be compared.

Needs the onnxruntime package besides onnx and numpy; 4 GB of memory for the largest model.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bert import TOKEN_TYPES, VOCABULARY
from builder import CUSTOM_DOMAIN

LARGEST, SMALLEST = 1000.0, 1e-3  # of the largest absolute value of each intermediate tensor
MASKED = "mask.scores"  # what BERT adds to the scores of absent tokens, -10000: large on purpose
MASKED_SCORES = ".masked"
ROWS = 3
SENSITIVITY = 0.01  # of the largest answer, to inputs rounded to FP16
TOLERANCE = {False: 1e-3, True: 3e-2}  # by FP16: of a row against the same input alone, by the largest answer

Arrays = dict[str, np.ndarray]


def with_standard_mish(model: onnx.ModelProto) -> onnx.ModelProto:
    """Puts standard operators where Mish is a node of our own, which ONNX Runtime does not know."""
    nodes = []
    for node in model.graph.node:
        if node.domain == CUSTOM_DOMAIN:
            (x,), (y,) = node.input, node.output
            nodes += [helper.make_node("Softplus", [x], [f"{y}.softplus"]),
                      helper.make_node("Tanh", [f"{y}.softplus"], [f"{y}.tanh"]),
                      helper.make_node("Mul", [x, f"{y}.tanh"], [y])]
        else:
            nodes.append(node)
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return model


def random_inputs(model: onnx.ModelProto, rows: int, rng: np.random.Generator) -> Arrays:
    sizes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim][1:] for value in model.graph.input}
    inputs: Arrays = {}
    for name, shape in sizes.items():
        match name:
            case "input_ids":
                inputs[name] = rng.integers(0, VOCABULARY, (rows, *shape))
            case "token_type_ids":
                inputs[name] = rng.integers(0, TOKEN_TYPES, (rows, *shape))
            case "attention_mask":  # of a text that fills three quarters
                inputs[name] = np.tile(np.arange(shape[0]) < 0.75 * shape[0], (rows, 1)).astype(np.int64)
            case _:
                inputs[name] = rng.standard_normal((rows, *shape), np.float32)
    return inputs


def session_of(model: onnx.ModelProto, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def answers(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    return dict(zip((output.name for output in session.get_outputs()), session.run(None, inputs)))


def relative(difference: np.ndarray, value: np.ndarray) -> float:
    return float(np.abs(difference).max() / np.abs(value).max())


def answer_problems(model: onnx.ModelProto, inputs: Arrays, fp16: bool) -> Iterator[str]:
    session = session_of(model, optimized=True)
    together = answers(session, inputs)
    alone = [answers(session, {name: x[row:row + 1] for name, x in inputs.items()}) for row in range(ROWS)]
    rounded = answers(session, {name: x.astype(np.float16).astype(x.dtype) if x.dtype == np.float32 else x
                                for name, x in inputs.items()})
    for output in model.graph.output:
        name, y = output.name, together[output.name]
        shape = [d.dim_value for d in output.type.tensor_type.shape.dim][1:]
        if y.shape != (ROWS, *shape) or alone[0][name].shape != (1, *shape) or y.dtype != np.float32:
            yield f"{name} is {y.dtype}{list(y.shape)} and alone {list(alone[0][name].shape)}, not FP32[batch,{shape}]"
            continue
        if not np.isfinite(y).all():
            yield f"{name} is not finite"
            continue
        if (spread := float(y[0].std())) < 0.01:
            yield f"{name} is nearly constant, with a deviation of {spread:.2g}"
        if (change := relative(y[0] - y[1], y)) < 0.05:
            yield f"{name} hardly depends on the input: it changes by {change:.2g} of its largest value"
        if (error := relative(y - rounded[name], y)) > SENSITIVITY:
            yield f"{name} changes by {error:.2g} of its largest value when the inputs are rounded to FP16"
        for row in range(ROWS):
            if (error := relative(y[row] - alone[row][name][0], y)) > TOLERANCE[fp16]:
                yield f"{name} of row {row} is off by {error:.2g} of what its input gives alone"


def ranges(model: onnx.ModelProto, inputs: Arrays) -> dict[str, float]:
    """The largest absolute value of every floating-point tensor that a node makes."""
    declared = {output.name for output in model.graph.output}
    every = onnx.ModelProto()
    every.CopyFrom(model)
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for node in model.graph.node for name in node.output
                              if name not in declared)
    values = answers(session_of(every, optimized=False), inputs)
    return {name: float(np.abs(x).max()) for name, x in values.items() if x.dtype in (np.float16, np.float32)}


def check(path: Path, seed: int) -> list[str]:
    model = with_standard_mish(onnx.load(path))
    fp16 = any(weight.data_type == TensorProto.FLOAT16 for weight in model.graph.initializer)
    inputs = random_inputs(model, ROWS, np.random.default_rng(seed))
    problems = list(answer_problems(model, inputs, fp16))
    found = ranges(model, {name: x[:1] for name, x in inputs.items()})
    found = {name: value for name, value in found.items() if name != MASKED and not name.endswith(MASKED_SCORES)}
    largest, smallest = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
    if not found[largest] < LARGEST:
        problems.append(f"{largest} reaches {found[largest]:.4g}, more than {LARGEST:g}")
    if not found[smallest] > SMALLEST:
        problems.append(f"{smallest} stays within {found[smallest]:.2g}")
    print(f"{path.name:32} largest {found[largest]:8.4g} in {largest}, smallest {found[smallest]:.3g} in {smallest}")
    return problems


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Checks written models with ONNX Runtime on the CPU.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the inputs (%(default)s)")
    given = parser.parse_args(arguments)
    failed = False
    for path in given.files:
        for problem in check(path, given.seed):
            failed = True
            print(f"{path.name}: {problem}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
