"""The models that the checks use, and a repository folder of them.

    python -m oip_conformance.fixtures FOLDER [--gpu NAME ...]

A server that runs no ONNX files serves the same under the same names by its own means: `MODELS` says what each computes.
"""

import argparse
from pathlib import Path

from .tensors import DATATYPES

CLASSES = ["apple", "pear", "plum", "cherry", "quince"]
VERSIONS = [1, 3]
MAX_BATCH = 8


def identity(datatype):
    return f"identity_{datatype.lower()}"


# name: (inputs, outputs, maximum batch or 0, what it computes). A tensor is (name, datatype, dimensions); where batches are
# allowed, another dimension comes before these.
MODELS = {
    **{identity(datatype): ([("INPUT0", datatype, [-1])], [("OUTPUT0", datatype, [-1])], MAX_BATCH, "OUTPUT0 = INPUT0")
       for datatype in DATATYPES},
    "add_sub": ([("INPUT0", "FP32", [4]), ("INPUT1", "FP32", [4])], [("SUM", "FP32", [4]), ("DIFFERENCE", "FP32", [4])],
                MAX_BATCH, "SUM = INPUT0 + INPUT1, DIFFERENCE = INPUT0 - INPUT1"),
    "classify": ([("VALUES", "FP32", [5])], [("SCORES", "FP32", [5])], MAX_BATCH,
                 f"SCORES = VALUES, labelled {', '.join(CLASSES)}"),
    "transpose": ([("MATRIX", "INT32", [2, 3])], [("TRANSPOSED", "INT32", [3, 2])], 0, "the transposed matrix"),
    "row_sum": ([("MATRIX", "FP32", [-1, -1])], [("SUMS", "FP32", [-1])], 0, "the sum of each row"),
    "versions": ([("INPUT0", "INT32", [-1])], [("OUTPUT0", "INT32", [-1])], MAX_BATCH,
                 "OUTPUT0 = INPUT0 + the number of the version; versions 1 and 3"),
    "spare": ([("INPUT0", "INT32", [-1])], [("OUTPUT0", "INT32", [-1])], MAX_BATCH,
              "OUTPUT0 = INPUT0; the checks unload and load it"),
    "slow": ([("STEPS", "INT64", [1]), ("START", "FP32", [1])], [("RESULT", "FP32", [1])], 0,
             "RESULT = START + STEPS, by adding 1 STEPS times: the time grows with STEPS"),
}


def described(tensors, max_batch):
    """Tensors as a model's metadata gives them."""
    return [{"name": name, "datatype": datatype, "shape": ([-1] if max_batch else []) + dims} for name, datatype, dims in tensors]


def config(name, gpu=False):
    """The text of config.pbtxt, for GPU 0 if asked for: by what, the server chooses."""
    inputs, outputs, max_batch, _ = MODELS[name]
    lines = [f'name: "{name}"', *([] if gpu else ['platform: "onnxruntime_onnx"']), f"max_batch_size: {max_batch}"]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor, datatype, dims in tensors:
            datatype = "STRING" if datatype == "BYTES" else datatype
            labels = ' label_filename: "labels.txt"' if tensor == "SCORES" else ""
            lines.append(f'{kind} {{ name: "{tensor}" data_type: TYPE_{datatype} dims: {dims}{labels} }}')
    if name == "versions":
        lines.append("version_policy { all { } }")
    lines.append("instance_group { kind: KIND_GPU gpus: [0] count: 1 }" if gpu else "instance_group { kind: KIND_CPU count: 1 }")
    return "\n".join(lines) + "\n"


def _onnx_model(name, version):
    """The model as ONNX; the same bytes each time."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    types = {"FP16": T.FLOAT16, "BF16": T.BFLOAT16, "FP32": T.FLOAT, "FP64": T.DOUBLE, "BYTES": T.STRING}
    inputs, outputs, max_batch, _ = MODELS[name]

    def values(tensors):
        for tensor, datatype, dims in tensors:
            shape = (["N"] if max_batch else []) + [f"{tensor.lower()}_{i}" if size < 0 else size for i, size in enumerate(dims)]
            yield h.make_tensor_value_info(tensor, types.get(datatype) or T.DataType.Value(datatype), shape)

    constants = []
    if name == "add_sub":
        nodes = [h.make_node("Add", ["INPUT0", "INPUT1"], ["SUM"]), h.make_node("Sub", ["INPUT0", "INPUT1"], ["DIFFERENCE"])]
    elif name == "transpose":
        nodes = [h.make_node("Transpose", ["MATRIX"], ["TRANSPOSED"], perm=[1, 0])]
    elif name == "row_sum":
        constants = [h.make_tensor("axes", T.INT64, [1], [1])]
        nodes = [h.make_node("ReduceSum", ["MATRIX", "axes"], ["SUMS"], keepdims=0)]
    elif name == "versions":
        constants = [h.make_tensor("version", T.INT32, [1], [version])]
        nodes = [h.make_node("Add", ["INPUT0", "version"], ["OUTPUT0"])]
    elif name == "slow":
        body = h.make_graph(
            [h.make_node("Identity", ["go"], ["go_on"]), h.make_node("Add", ["value", "one"], ["next"])], "body",
            [h.make_tensor_value_info("step", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, []),
             h.make_tensor_value_info("value", T.FLOAT, [1])],
            [h.make_tensor_value_info("go_on", T.BOOL, []), h.make_tensor_value_info("next", T.FLOAT, [1])])
        constants = [h.make_tensor("always", T.BOOL, [], [True]), h.make_tensor("one", T.FLOAT, [1], [1.0]),
                     h.make_tensor("scalar", T.INT64, [0], [])]
        nodes = [h.make_node("Reshape", ["STEPS", "scalar"], ["steps"]),
                 h.make_node("Loop", ["steps", "always", "START"], ["RESULT"], body=body)]
    else:
        nodes = [h.make_node("Identity", [inputs[0][0]], [outputs[0][0]])]
    graph = h.make_graph(nodes, name, list(values(inputs)), list(values(outputs)), constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10, producer_name="oip-conformance")
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def write(folder, gpu=()):
    """Writes a repository folder of all models; those named in `gpu` are for GPU 0."""
    folder = Path(folder)
    for name in MODELS:
        for version in VERSIONS if name == "versions" else [1]:
            file = folder / name / str(version) / "model.onnx"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_onnx_model(name, version))
        (folder / name / "config.pbtxt").write_text(config(name, name in gpu))
    (folder / "classify" / "labels.txt").write_text("\n".join(CLASSES) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Writes the models that oip-conformance uses into a repository folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpu", metavar="NAME", action="append", default=[], choices=MODELS, help="this model is for GPU 0")
    options = parser.parse_args()
    write(options.folder, options.gpu)


if __name__ == "__main__":
    main()
