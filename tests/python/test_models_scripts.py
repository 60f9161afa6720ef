"""tools/models: the benchmarks' models have the architecture they say, and one seed gives the same bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

FOLDER = Path(__file__).resolve().parents[2] / "tools" / "models"
sys.path.insert(0, str(FOLDER))

import bert  # noqa: E402
import builder  # noqa: E402
import check  # noqa: E402
import write  # noqa: E402
import yolov4  # noqa: E402


def run_write(*arguments):
    return subprocess.run([sys.executable, FOLDER / "write.py", *map(str, arguments)], capture_output=True, text=True)


def written(folder, *arguments):
    done = run_write("mlp", "--output", folder, *arguments)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    return path


def evaluate(model, x):
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def test_one_seed_gives_the_same_bytes(tmp_path):
    first, again, other = (written(tmp_path / name, "--seed", seed).read_bytes()
                           for name, seed in (("a", 7), ("b", 7), ("c", 8)))
    assert first == again
    assert first != other


def test_mlp_computes_what_its_weights_say(tmp_path):
    model = onnx.load(written(tmp_path))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8 and [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    dims = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)]
    assert dims == [["batch", 64], ["batch", 16]]
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    x = y = np.random.default_rng(1).standard_normal((3, 64), np.float32)
    for layer in range(1, 5):
        y = y @ weights[f"dense{layer}.weight"] + weights[f"dense{layer}.bias"]
        y = np.maximum(y, 0) if layer < 4 else y
    found = evaluate(model, x)
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)
    assert np.abs(found).max() < 10 and np.abs(found[0] - found[1]).max() > 0.1


def test_mlp_in_fp16(tmp_path):
    path = written(tmp_path / "half", "--fp16")
    assert path.name == "mlp-fp16.onnx"
    half, full = onnx.load(path), onnx.load(written(tmp_path / "full"))
    assert {w.data_type for w in half.graph.initializer} == {TensorProto.FLOAT16}
    assert {v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)} == {TensorProto.FLOAT}
    assert [n.op_type for n in half.graph.node if n.op_type == "Cast"] == ["Cast", "Cast"]
    x = np.random.default_rng(2).standard_normal((2, 64), np.float32)
    np.testing.assert_allclose(evaluate(half, x), evaluate(full, x), atol=0.02)


def test_resnet50_is_as_large_as_resnet50():
    model = write.build("resnet50", builder.Options()).model()  # checks parameters and MACs
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in inferred.graph.value_info}
    assert shapes["stem.pool"] == [64, 56, 56] and shapes["stage4.3"] == [2048, 7, 7]
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 53
    shapes = {w.name: w.dims for w in model.graph.initializer}
    assert sum(np.prod(dims) for dims in shapes.values()) == 25_557_032 - 26_560  # one of two per normalized channel


# ONNX Runtime runs them, in FP32 and in FP16 without infinities. BERT with fewer layers and words and YOLOv4 on small
# images, which takes the same paths; "make check-models" checks all of them as they are.


def checked(b, path):
    model = b.model()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return check.check(path, seed=1)


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("name", ["mlp", "resnet50"])
def test_onnx_runtime_runs_them(name, fp16, tmp_path):
    assert checked(write.build(name, builder.Options(fp16=fp16)), tmp_path / f"{name}.onnx") == []


@pytest.mark.parametrize("fp16", [False, True])
def test_onnx_runtime_runs_bert(fp16, tmp_path, monkeypatch):
    monkeypatch.setattr(bert, "LAYERS", 2)
    for module in (bert, check):
        monkeypatch.setattr(module, "VOCABULARY", 1000)
    b = builder.Builder("bert", builder.Options(fp16=fp16))
    bert.bert_base(b, sequence=32)
    assert checked(b, tmp_path / "bert.onnx") == []
    (part,) = [node for node in b.model().graph.node if node.op_type == "Slice"]
    assert len(part.input) == 4  # table, first, end, axis


@pytest.mark.parametrize("fp16", [False, True])
def test_onnx_runtime_runs_yolov4(fp16, tmp_path):
    b = builder.Builder("yolov4", builder.Options(fp16=fp16))
    yolov4.yolov4(b, size=64)
    assert checked(b, tmp_path / "yolov4.onnx") == []


def test_values_beyond_fp16_are_noticed(tmp_path):
    def model(factor):
        b = builder.Builder("scaled", builder.Options())
        b.output(b.op("Mul", [b.input("x", (4,)), b.scalar("factor", factor)], "scaled", (4,)), "y")
        return b

    assert checked(model(2.0), tmp_path / "fine.onnx") == []
    (problem,) = checked(model(1e5), tmp_path / "large.onnx")
    assert "more than 1000" in problem


def test_a_wrong_size_is_noticed(monkeypatch):
    mlp = write.MODELS["mlp"]
    monkeypatch.setitem(write.MODELS, "mlp", write.Architecture(mlp.build, mlp.parameters + 1, mlp.macs))
    with pytest.raises(AssertionError, match="152337"):
        write.build("mlp", builder.Options())


def test_mish_is_three_nodes_or_one_of_our_own():
    def mish(options):
        b = builder.Builder("mish", options)
        b.output(b.activation("Mish", b.input("x", (4,)), "mish"), "y")
        return b.model()

    x = np.linspace(-3, 3, 4, dtype=np.float32)[np.newaxis]
    np.testing.assert_allclose(evaluate(mish(builder.Options()), x), x * np.tanh(np.log1p(np.exp(x))), rtol=1e-5)
    (node,) = mish(builder.Options(mish_node=builder.MISH_NODE)).graph.node
    assert (node.op_type, node.domain) == ("MillraceMish", "millrace")


@pytest.mark.parametrize("arguments", [["mlp"], ["resnet51", "--output", "x"], ["mlp", "--output", "x", "--mish-node"]])
def test_wrong_usage(arguments, tmp_path):
    done = run_write(*arguments)
    assert done.returncode == 2 and "usage:" in done.stderr
