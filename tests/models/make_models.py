#!/usr/bin/env python3
"""Writes the small ONNX models that the tests of the onnxruntime and tensorrt backends run.

    tests/models/make_models.py [FOLDER]      (default: the folder of this script)

The same files come out each time. Needs the packages numpy and onnx.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

OPSET = 21
IR_VERSION = 10

IDENTITY_TYPES = {
    "bool": T.BOOL, "uint8": T.UINT8, "uint16": T.UINT16, "uint32": T.UINT32, "uint64": T.UINT64,
    "int8": T.INT8, "int16": T.INT16, "int32": T.INT32, "int64": T.INT64,
    "fp16": T.FLOAT16, "bf16": T.BFLOAT16, "fp32": T.FLOAT, "fp64": T.DOUBLE,
    "fp8_e4m3": T.FLOAT8E4M3FN, "fp8_e5m2": T.FLOAT8E5M2, "string": T.STRING,
}


def value(name, element, shape):
    return h.make_tensor_value_info(name, element, shape)


def model(name, nodes, inputs, outputs, initializers=(), domains=(), metadata=None, opset=OPSET, ir_version=IR_VERSION):
    graph = h.make_graph(list(nodes), name, list(inputs), list(outputs), list(initializers))
    opsets = [h.make_opsetid("", opset)] + [h.make_opsetid(domain, 1) for domain in domains]
    made = h.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="make_models.py")
    for key, text in (metadata or {}).items():
        made.metadata_props.add(key=key, value=text)
    return made


def identity(name, element):
    return model(f"identity_{name}", [h.make_node("Identity", ["input"], ["output"])],
                 [value("input", element, ["N", 4])], [value("output", element, ["N", 4])])


def two_in_two_out():
    """sum = a + b and product = a * b, of any width."""
    nodes = [h.make_node("Add", ["a", "b"], ["sum"]), h.make_node("Mul", ["a", "b"], ["product"])]
    shape = ["N", "width"]
    return model("two_in_two_out", nodes, [value("a", T.FLOAT, shape), value("b", T.FLOAT, shape)],
                 [value("sum", T.FLOAT, shape), value("product", T.FLOAT, shape)],
                 metadata={"purpose": "arithmetic", "empty": ""})


def linear():
    """output = input x weights, with seeded weights of 4096 bytes."""
    weights = np.random.default_rng(7).integers(-4, 5, size=(16, 64)).astype(np.float32)
    return model("linear", [h.make_node("MatMul", ["input", "weights"], ["output"])],
                 [value("input", T.FLOAT, ["N", 16])], [value("output", T.FLOAT, ["N", 64])],
                 [numpy_helper.from_array(weights, "weights")])


def nonzero():
    """Where the input is not zero: an output whose size is known only after computing."""
    return model("nonzero", [h.make_node("NonZero", ["input"], ["indices"])],
                 [value("input", T.FLOAT, ["rows", "columns"])], [value("indices", T.INT64, [2, "count"])])


def compress():
    """The rows that are kept: a batch axis in name, but another one in the output."""
    return model("compress", [h.make_node("Compress", ["input", "keep"], ["output"], axis=0)],
                 [value("input", T.FLOAT, ["N", 3]), value("keep", T.BOOL, ["N"])],
                 [value("output", T.FLOAT, ["M", 3])])


def fixed_batch():
    """The mean of each row of exactly four."""
    return model("fixed_batch", [h.make_node("ReduceMean", ["input", "axes"], ["output"], keepdims=0)],
                 [value("input", T.FLOAT, [4, 8])], [value("output", T.FLOAT, [4])],
                 [numpy_helper.from_array(np.array([1], np.int64), "axes")])


def scalar():
    """output = input + 1, without any dimension."""
    return model("scalar", [h.make_node("Add", ["input", "one"], ["output"])],
                 [value("input", T.FLOAT, [])], [value("output", T.FLOAT, [])],
                 [numpy_helper.from_array(np.array(1, np.float32), "one")])


def mislabelled():
    """Says that it gives as many rows as it takes, and gives twice as many."""
    return model("mislabelled", [h.make_node("Concat", ["input", "input"], ["output"], axis=0)],
                 [value("input", T.FLOAT, ["N", 2])], [value("output", T.FLOAT, ["N", 2])])


def unknown_operator():
    return model("unknown_operator", [h.make_node("Frobnicate", ["input"], ["output"], domain="example.frob")],
                 [value("input", T.FLOAT, ["N", 4])], [value("output", T.FLOAT, ["N", 4])], domains=["example.frob"])


def slow():
    """Adds 1 to the input `steps` times in a Loop: runs as long as one likes, and ends when told to."""
    body = h.make_graph(
        [h.make_node("Identity", ["go"], ["go_on"]), h.make_node("Add", ["value", "one"], ["next"])],
        "body",
        [value("step", T.INT64, []), value("go", T.BOOL, []), value("value", T.FLOAT, [1])],
        [value("go_on", T.BOOL, []), value("next", T.FLOAT, [1])])
    node = h.make_node("Loop", ["steps", "always", "start"], ["result"], body=body)
    return model("slow", [node], [value("steps", T.INT64, []), value("start", T.FLOAT, [1])], [value("result", T.FLOAT, [1])],
                 [numpy_helper.from_array(np.array(True), "always"),
                  numpy_helper.from_array(np.array([1], np.float32), "one")])


def division():
    """quotient = a / b of whole rows: fails when the widths do not fit each other."""
    return model("division", [h.make_node("Div", ["a", "b"], ["quotient"])],
                 [value("a", T.FLOAT, ["N", "wide"]), value("b", T.FLOAT, ["N", "narrow"])],
                 [value("quotient", T.FLOAT, ["N", "any"])])


def sequence_input():
    shape = h.make_tensor_type_proto(T.FLOAT, ["N"])
    sequence = h.make_value_info("input", h.make_sequence_type_proto(shape))
    return model("sequence_input", [h.make_node("ConcatFromSequence", ["input"], ["output"], axis=0)],
                 [sequence], [value("output", T.FLOAT, ["M"])])


def nine_dimensions():
    shape = [1] * 9
    return model("nine_dimensions", [h.make_node("Identity", ["input"], ["output"])],
                 [value("input", T.FLOAT, shape)], [value("output", T.FLOAT, shape)])


def unknown_rank():
    """The output's number of dimensions is the length of the input `shape`."""
    return model("unknown_rank", [h.make_node("Reshape", ["input", "shape"], ["output"])],
                 [value("input", T.FLOAT, ["N"]), value("shape", T.INT64, ["rank"])], [value("output", T.FLOAT, None)])


def average():
    """The averages of three planes: next to no work for 150,528 bytes an item."""
    return model("average", [h.make_node("GlobalAveragePool", ["input"], ["output"])],
                 [value("input", T.FLOAT, ["N", 3, 112, 112])], [value("output", T.FLOAT, ["N", 3, 1, 1])])


PLUGINS = "millrace"  # a domain of operators that only plug-ins know


def mish():
    """Mish of the input plus 1."""
    nodes = [h.make_node("Add", ["input", "one"], ["sum"]), h.make_node("MillraceMish", ["sum"], ["output"], domain=PLUGINS)]
    return model("mish", nodes, [value("input", T.FLOAT, ["N", 64])], [value("output", T.FLOAT, ["N", 64])],
                 [numpy_helper.from_array(np.array([1], np.float32), "one")], [PLUGINS], opset=17, ir_version=8)


def misbehave(how):
    """The input plus 1, by way of a plug-in that does something forbidden; 0: nothing."""
    nodes = [h.make_node("Add", ["input", "one"], ["sum"]),
             h.make_node("Misbehave", ["sum"], ["output"], domain=PLUGINS, how=how)]
    return model(f"misbehave_{how}", nodes, [value("input", T.FLOAT, ["N", 64])], [value("output", T.FLOAT, ["N", 64])],
                 [numpy_helper.from_array(np.array([1], np.float32), "one")], [PLUGINS], opset=17, ir_version=8)


def yolo():
    """A detector's head of two anchors and three classes, in 4 by 5 cells of 8 pixels."""
    node = h.make_node("YoloDecode", ["head"], ["boxes", "scores"], domain=PLUGINS, anchors=[10.0, 13.0, 33.0, 23.0], stride=8.0,
                       classes=3, scale_xy=1.05)
    return model("yolo", [node], [value("head", T.FLOAT, ["N", 16, 4, 5])],
                 [value("boxes", T.FLOAT, ["N", 40, 4]), value("scores", T.FLOAT, ["N", 40, 3])], domains=[PLUGINS], opset=17,
                 ir_version=8)


def reshape():
    """The input in the shape that the values of another input name."""
    nodes = [h.make_node("Reshape", ["input", "shape"], ["shaped"]), h.make_node("Neg", ["shaped"], ["output"])]
    return model("reshape", nodes, [value("input", T.FLOAT, ["N"]), value("shape", T.INT64, [2])],
                 [value("output", T.FLOAT, ["rows", "columns"])], opset=17, ir_version=8)


def convolutions():
    """Four convolutions of 3 by 3, so that a run needs scratch memory."""
    random = np.random.default_rng(11)
    nodes, initializers, last, channels = [], [], "input", 4
    for i, width in enumerate((16, 16, 16, 4)):
        weights = (random.standard_normal((width, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
        initializers.append(numpy_helper.from_array(weights, f"weights_{i}"))
        nodes.append(h.make_node("Conv", [last, f"weights_{i}"], [f"sum_{i}"], pads=[1, 1, 1, 1]))
        nodes.append(h.make_node("Tanh", [f"sum_{i}"], ["output" if i == 3 else f"tanh_{i}"]))
        last, channels = f"tanh_{i}", width
    shape = ["N", 4, 48, 48]
    return model("convolutions", nodes, [value("input", T.FLOAT, shape)], [value("output", T.FLOAT, shape)], initializers,
                 opset=17, ir_version=8)


def dequantize(name, element):
    """Half of the input, as FP32."""
    zero = h.make_tensor("zero", element, [], [0])
    return model(f"dequantize_{name}", [h.make_node("DequantizeLinear", ["input", "half", "zero"], ["output"])],
                 [value("input", element, ["N", 4])], [value("output", T.FLOAT, ["N", 4])],
                 [numpy_helper.from_array(np.array(0.5, np.float32), "half"), zero], opset=19, ir_version=9)


def quantize(name, element):
    """Twice the input, in a narrow type."""
    zero = h.make_tensor("zero", element, [], [0])
    return model(f"quantize_{name}", [h.make_node("QuantizeLinear", ["input", "half", "zero"], ["output"])],
                 [value("input", T.FLOAT, ["N", 4])], [value("output", element, ["N", 4])],
                 [numpy_helper.from_array(np.array(0.5, np.float32), "half"), zero], opset=19, ir_version=9)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    models = [identity(name, element) for name, element in IDENTITY_TYPES.items()]
    models += [make() for make in (two_in_two_out, linear, nonzero, compress, fixed_batch, scalar, mislabelled,
                                   unknown_operator, slow, division, sequence_input, nine_dimensions, unknown_rank, mish, yolo,
                                   reshape, convolutions, average)]
    models += [misbehave(how) for how in range(8)]
    for name, element in (("int8", T.INT8), ("fp8", T.FLOAT8E4M3FN)):
        models += [quantize(name, element), dequantize(name, element)]
    for made in models:
        foreign = any(opset.domain for opset in made.opset_import)
        if not foreign and made.graph.name != "unknown_rank":
            onnx.checker.check_model(made)
        (folder / f"{made.graph.name}.onnx").write_bytes(made.SerializeToString(deterministic=True))
    print(f"wrote {len(models)} models to {folder}")


if __name__ == "__main__":
    main()
