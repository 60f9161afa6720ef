"""millrace build --variant and --verify: models in less precision, made and measured without a GPU."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from cli_helpers import BINARY, DIGITS, NUMBER, ROOT, as_json, check_schema, fails, held_out, millrace, succeeds
from onnx import TensorProto, helper, numpy_helper

sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tools" / "models" / "digits")]

import train  # noqa: E402
from millrace_variants import casts, inputs  # noqa: E402
from millrace_variants.failure import Failure  # noqa: E402

MODEL = DIGITS / "digits.onnx"
PYTHON = {"MILLRACE_PYTHON": sys.executable}
POINTS = 0.005  # half a percentage point of accuracy
COMPARED = {"name": str, "elements": int, "max_error": NUMBER, "mean_error": NUMBER, "relative_error": NUMBER, "cosine": NUMBER,
            "not_finite": int, "good": bool, "agreement?": NUMBER}
VERIFY = {"good": bool, "reference": str, "inputs": str, "items": int, "largest_relative_error": NUMBER, "least_agreement": NUMBER,
          "outputs": [COMPARED]}
BUILT = {"file": str, "bytes": int, "seconds": NUMBER, "variant": str, "casts": int, "quantized": int, "verify?": VERIFY}


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """Images of the training part, in several files."""
    folder = tmp_path_factory.mktemp("calibration")
    images, labels = train.load_data()
    training = train.nchw(images[train.split_indices(labels)[0]])
    np.save(folder / "a.npy", training[:100])
    np.savez(folder / "b.npz", images=training[100:101])
    np.savez(folder / "c.npz", pixels=training[101:200])
    (folder / "notes.txt").write_text("not an input")
    return folder


@pytest.fixture(scope="module")
def test_set(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test_set")
    np.save(folder / "images.npy", held_out()["images"])
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory, calibration, test_set):
    """Every variant of the digits model: its file and what was said."""
    folder, made = tmp_path_factory.mktemp("variants"), {}
    for variant in ("fp16", "bf16", "int8", "fp8"):
        file = folder / f"digits.{variant}.onnx"
        calibrate = ["--calibrate", calibration] if variant in ("int8", "fp8") else []
        said = as_json("build", MODEL, "--variant", variant, *calibrate, "--output", file, f"--verify={test_set}", env=PYTHON)
        check_schema(said, BUILT)
        made[variant] = file, said
    assert sorted(path.name for path in folder.iterdir()) == [f"digits.{name}.onnx" for name in ("bf16", "fp16", "fp8", "int8")]
    return made


def accuracy(model, *options):
    answers = as_json("run", model, "--input", DIGITS / "held_out.npz", "--top", "1", *options)["results"]
    labels = held_out()["labels"]
    assert len(answers) == len(labels)
    return np.mean([answer["top"][0]["class"] == label for answer, label in zip(answers, labels)])


# --- The digits model ---


@pytest.mark.parametrize("variant, options", [("fp16", []), ("int8", []), ("fp8", ["--option", "graph_optimization=basic"])])
def test_accuracy_through_onnx_runtime(built, variant, options):
    full = accuracy(MODEL)
    assert full > 0.97
    assert abs(accuracy(built[variant][0], *options) - full) <= POINTS


@pytest.mark.parametrize("variant, relative", [("fp16", 1e-3), ("bf16", 1e-2), ("int8", 2e-2), ("fp8", 5e-2)])
def test_verification_of_the_digits(built, variant, relative):
    file, said = built[variant]
    assert said["file"] == str(file) and said["bytes"] == file.stat().st_size and said["variant"] == variant
    verified = said["verify"]
    assert verified["good"] and verified["items"] == 360
    assert verified["reference"] == "ONNX Runtime in FP32 on the host"
    (output,) = verified["outputs"]
    assert output["name"] == "probabilities" and output["elements"] == 3600 and output["not_finite"] == 0
    assert 0 < output["relative_error"] <= relative and output["cosine"] > 0.999
    assert 0 < output["mean_error"] < output["max_error"] and output["agreement"] >= 1 - POINTS


def test_int8_is_what_tensorrt_asks_for(built):
    model = onnx.load(built["int8"][0])
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) == 28 and built["int8"][1]["quantized"] == 14  # inputs and weights of 7 layers
    channels = set()
    for node in nodes:
        scale, zero = weights[node.input[1]], weights[node.input[2]]
        assert zero.dtype == np.int8 and not zero.any() and (scale > 0).all() and scale.dtype == np.float32
        channels.add(scale.shape)
    assert channels == {(), (64,), (10,)}  # activations as a whole, weights by channel
    assert {value.dtype for name, value in weights.items() if name.endswith("bias")} == {np.dtype(np.float32)}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert all("DequantizeLinear" in name for name in node.input[:2])


@pytest.mark.parametrize("variant, number", [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_16_bits_inside_and_fp32_at_the_boundary(built, variant, number):
    model = onnx.load(built[variant][0])
    assert {weight.data_type for weight in model.graph.initializer} == {number}
    assert [node.op_type for node in model.graph.node].count("Cast") == built[variant][1]["casts"] == 2
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    assert built[variant][0].stat().st_size < 0.55 * MODEL.stat().st_size


@pytest.mark.parametrize("variant", ["fp16", "bf16", "int8", "fp8"])
def test_a_variant_says_what_it_is(built, variant, calibration, tmp_path):
    file = built[variant][0]
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["millrace_variant"] == variant and metadata["labels"] == "0,1,2,3,4,5,6,7,8,9"
    original = onnx.load(MODEL)
    assert list(model.graph.input) == list(original.graph.input) and list(model.graph.output) == list(original.graph.output)
    message = fails(1, "build", file, "--int8", "--calibrate", calibration, "--output", tmp_path / "x.onnx", env=PYTHON)
    assert f"is a variant in {variant} already" in message and not list(tmp_path.iterdir())


def test_one_model_gives_the_same_bytes(built, tmp_path):
    again = tmp_path / "again.onnx"
    succeeds("build", MODEL, "--variant", "fp16", "--output", again, env=PYTHON)
    assert again.read_bytes() == built["fp16"][0].read_bytes()


def test_the_default_name_is_the_models(tmp_path):
    shutil.copy(MODEL, tmp_path)
    text = succeeds("build", "digits.onnx", "--variant", "fp16", env=PYTHON, cwd=tmp_path)
    assert 'Wrote "digits.fp16.onnx"' in text and "variant fp16, 2 casts" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.fp16.onnx", "digits.onnx"]


def test_what_is_to_stay_stays(calibration, tmp_path):
    file = tmp_path / "kept.onnx"
    options = ["--int8", "--calibrate", calibration, "--keep", "Gemm", "--keep", "conv1", "--calibration", "percentile"]
    assert as_json("build", MODEL, *options, "--output", file, env=PYTHON)["quantized"] == 8  # 4 convolutions
    said = as_json("build", MODEL, "--variant", "fp16", "--keep", "Softmax", "--output", file, env=PYTHON)
    assert said["casts"] == 2  # one before it instead of one behind it
    softmax = onnx.load(file).graph.node[-1]
    assert softmax.op_type == "Softmax" and softmax.output[0] == "probabilities"


# --- Verification ---


def test_what_is_not_good_is_said(built, tmp_path):
    file = tmp_path / "digits.fp16.onnx"
    options = ("build", MODEL, "--variant", "fp16", "--output", file, "--verify", "--verify-threshold", "1e-9")
    done = millrace(*options, env=PYTHON)
    assert done.returncode == 1 and "not good" in done.stdout and "32 items of random inputs" in done.stdout
    assert f'millrace: error: "{file}" is not good: output "probabilities": relative error' in done.stderr
    assert "at most 1e-09 allowed" in done.stderr
    assert file.exists()  # to be looked at
    done = millrace(*options, "--json", env=PYTHON)
    assert done.returncode == 1 and '"good": false' in done.stdout


def test_what_calibrated_also_verifies(calibration, tmp_path):
    said = as_json("build", MODEL, "--int8", "--calibrate", calibration, "--output", tmp_path / "x.onnx", "--verify", env=PYTHON)
    assert said["verify"]["items"] == 200 and said["verify"]["inputs"] == f'real inputs of "{calibration}"'


def test_folders_to_verify_with_that_are_of_no_use(tmp_path):
    def message(folder):
        return fails(1, "build", MODEL, "--variant", "fp16", "--output", tmp_path / "x.onnx", f"--verify={folder}", env=PYTHON)

    assert "cannot read the folder" in message(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no inputs: expected .npy or .npz files" in message(tmp_path / "empty")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 8, 8), np.float32))
    assert 'input "images": expected [-1,1,8,8] FP32, got [2,8,8] FP32' in message(tmp_path)


# --- The package and its process ---


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return {"MILLRACE_PYTHON": str(path)}


def test_a_python_that_is_missing_or_lacks_packages_is_said(tmp_path):
    command = ("build", MODEL, "--variant", "fp16", "--output", tmp_path / "x.onnx")
    message = fails(1, *command, env={"MILLRACE_PYTHON": "/nowhere/python3"})
    assert "the packages onnx, onnxruntime and numpy" in message and '"/nowhere/python3" cannot be started' in message
    assert "MILLRACE_PYTHON" in message
    message = fails(1, *command, env=script(tmp_path / "bare", f'exec {sys.executable} -S "$@"\n'))
    assert "No module named 'onnx'" in message and "-m pip install onnx onnxruntime numpy" in message
    assert "ended with 3" in fails(1, *command, env=script(tmp_path / "dies", "exit 3\n"))
    assert "ended by signal 9" in fails(1, *command, env=script(tmp_path / "killed", "kill -9 $$\n"))
    assert "my last words" in fails(1, *command, env=script(tmp_path / "speaks", "echo first >&2; echo my last words >&2; exit 1\n"))
    assert not (tmp_path / "x.onnx").exists() and not list(tmp_path.glob("*.tmp*"))


def test_ctrl_c_ends_the_process_and_leaves_no_file(tmp_path):
    waits = script(tmp_path / "waits", f'touch {tmp_path}/out/x.onnx.part\necho $$ > {tmp_path}/pid\nsleep 600\n')
    (tmp_path / "out").mkdir()
    environment = {**os.environ, **waits}
    command = [BINARY, "build", MODEL, "--variant", "fp16", "--output", tmp_path / "out" / "x.onnx"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as process:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert "making the variant was cancelled" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.onnx.part"]


def test_the_installed_program_finds_the_package(tmp_path):
    for place in ("bin", "share/millrace/python"):
        (tmp_path / place).mkdir(parents=True)
    shutil.copy(BINARY, tmp_path / "bin")
    command = [tmp_path / "bin" / BINARY.name, "build", MODEL, "--variant", "fp16", "--output", tmp_path / "x.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **PYTHON})
    assert done.returncode == 1 and f"{tmp_path}/share/millrace/python/millrace_variants" in done.stderr
    shutil.copytree(ROOT / "python" / "millrace_variants", tmp_path / "share" / "millrace" / "python" / "millrace_variants")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **PYTHON})
    assert done.returncode == 0, done.stderr


def test_inputs_that_are_of_no_use_are_named(tmp_path):
    folder = tmp_path / "inputs"

    def message():
        return fails(1, "build", MODEL, "--int8", "--calibrate", folder, "--output", tmp_path / "x.onnx", env=PYTHON)

    assert "is no folder" in message()
    folder.mkdir()
    assert "holds no inputs: expected .npy or .npz files" in message()
    (folder / "a.npy").write_bytes(b"not an array")
    assert f'cannot read "{folder}/a.npy"' in message()
    np.save(folder / "a.npy", np.zeros((3, 8, 8), np.float32))
    assert 'input "images": expected float32 [?,1,8,8], got float32 [3, 8, 8]' in message()
    np.save(folder / "a.npy", np.zeros((3, 1, 8, 8)))
    assert "got float64 [3, 1, 8, 8]" in message()
    np.save(folder / "a.npy", np.full((3, 1, 8, 8), np.nan, np.float32))
    assert f'input "images": "{folder}/a.npy" holds values that are not finite' in message()
    assert list(tmp_path.iterdir()) == [folder]


def test_models_that_cannot_be_read_are_named(tmp_path):
    output = ["--variant", "fp16", "--output", tmp_path / "x.onnx"]
    assert "there is no such file" in fails(1, "build", tmp_path / "none.onnx", *output, env=PYTHON)
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 100)
    assert "as ONNX" in fails(1, "build", tmp_path / "bad.onnx", *output, env=PYTHON)
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "holds no ONNX graph" in fails(1, "build", tmp_path / "empty.onnx", *output, env=PYTHON)


def test_files_that_cannot_be_written_are_named(tmp_path):
    message = fails(1, "build", MODEL, "--variant", "fp16", "--output", tmp_path / "none" / "x.onnx", env=PYTHON)
    assert f'cannot write "{tmp_path}/none/x.onnx.' in message and "No such file or directory" in message
    command = [BINARY, "build", MODEL, "--variant", "fp16", "--output", tmp_path / "x.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **PYTHON},
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))  # as a full disk
    assert done.returncode == 1 and f'cannot write "{tmp_path}/x.onnx.' in done.stderr and "File too large" in done.stderr
    assert not list(tmp_path.iterdir())


# --- Graphs of every kind ---


def model_of(nodes, inputs_, outputs, weights=(), opset=17, domains=()):
    def values(entries):
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in entries]

    graph = helper.make_graph(nodes, "graph", values(inputs_), values(outputs), [numpy_helper.from_array(array, name) for name, array in weights])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def answers(model, **given):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)


F32 = TensorProto.FLOAT


def test_scales_that_must_be_fp32_stay_exact():
    scales = np.array([1, 1, 4 / 3, 4 / 3], np.float32)
    model = model_of([helper.make_node("Constant", [], ["half"], value_float=0.5), helper.make_node("Mul", ["x", "half"], ["y"]),
                      helper.make_node("Resize", ["y", "", "scales"], ["z"], mode="nearest")],
                     [("x", F32, [1, 1, 6, 6])], [("z", F32, None)], [("scales", scales)])
    x = np.random.default_rng(1).standard_normal((1, 1, 6, 6), np.float32)
    expected = answers(model, x=x)[0]
    changed = casts.with_casts(model, "fp16")
    kept = {weight.name: numpy_helper.to_array(weight) for weight in changed.graph.initializer}
    np.testing.assert_array_equal(kept["scales"], scales)
    assert [node.op_type for node in changed.graph.node] == ["Cast", "Mul", "Resize", "Cast"]
    np.testing.assert_allclose(answers(changed, x=x)[0], expected, atol=2e-3)


def test_results_that_are_used_further_on_keep_their_name_and_type():
    model = model_of([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["a", "w"], ["b"]),
                      helper.make_node("Shape", ["a"], ["s"]), helper.make_node("ArgMax", ["b"], ["i"], axis=1, keepdims=0)],
                     [("x", F32, ["N", 4])], [("a", F32, ["N", 4]), ("b", F32, ["N", 4]), ("s", TensorProto.INT64, [2]), ("i", TensorProto.INT64, ["N"])],
                     [("w", np.array([1, 2, 3, 1e6], np.float32))])
    changed = casts.with_casts(model, "fp16")
    onnx.checker.check_model(changed, full_check=True)
    a, b, s, i = answers(changed, x=np.array([[-1, 2, 3, 4]], np.float32))
    assert a.tolist() == [[0, 2, 3, 4]] and b[0, :3].tolist() == [1, 4, 6] and s.tolist() == [1, 4] and i.tolist() == [3]
    assert np.isfinite(b).all(), "a weight beyond FP16 becomes its largest value"


def test_plug_ins_stay_in_fp32():
    model = model_of([helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Mystery", ["a"], ["b"], domain="mine"),
                      helper.make_node("Relu", ["b"], ["y"])], [("x", F32, [4])], [("y", F32, [4])], domains=["mine"])
    changed = casts.with_casts(model, "fp16")
    assert [node.op_type for node in changed.graph.node] == ["Cast", "Relu", "Cast", "Mystery", "Cast", "Relu", "Cast"]


def test_models_without_variants_are_refused():
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "body", [], [helper.make_tensor_value_info("z", F32, [4])])
    branch = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=body, else_branch=body)
    model = model_of([branch], [("x", F32, [4]), ("c", TensorProto.BOOL, [])], [("y", F32, [4])])
    with pytest.raises(Failure, match='node "choice" .If. has a graph of its own'):
        casts.with_casts(model, "fp16")
    integers = model_of([helper.make_node("Add", ["x", "x"], ["y"])], [("x", TensorProto.INT64, [4])], [("y", TensorProto.INT64, [4])])
    with pytest.raises(Failure, match="nothing in the model computes in FP32"):
        casts.with_casts(integers, "bf16")


def test_the_twin_rounds_as_bf16_does():
    rng = np.random.default_rng(2)
    w = rng.standard_normal((8, 8), np.float32)
    model = model_of([helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])],
                     [("x", F32, [8, 8])], [("y", F32, [8, 8])], [("w", w)])
    variant = casts.with_casts(model, "bf16")
    x = rng.standard_normal((8, 8), np.float32)
    bf16 = ml_dtypes.bfloat16
    expected = np.maximum((x.astype(bf16) * w.astype(bf16)).astype(np.float32), 0)
    found = answers(casts.rounding_twin(variant), x=x)[0]
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - np.maximum(x * w, 0)).max() > 0


def test_several_inputs_and_fixed_batches(tmp_path):
    rng = np.random.default_rng(3)
    nodes = [helper.make_node("Gather", ["table", "ids"], ["e"]), helper.make_node("Mul", ["e", "scale"], ["m"]),
             helper.make_node("MatMul", ["m", "w"], ["y"])]
    model = model_of(nodes, [("ids", TensorProto.INT64, [4, 3]), ("scale", F32, [4, 1, 1])], [("y", F32, [4, 3, 5])],
                     [("table", rng.standard_normal((10, 6), np.float32)), ("w", rng.standard_normal((6, 5), np.float32))])
    onnx.save(model, tmp_path / "model.onnx")
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.savez(folder / "a.npz", ids=rng.integers(0, 10, (10, 3)), scale=rng.random((10, 1, 1), np.float32))  # two batches and a rest
    said = as_json("build", tmp_path / "model.onnx", "--int8", "--calibrate", folder, "--output", tmp_path / "x.onnx", env=PYTHON)
    assert said["quantized"] == 2
    found = list(inputs.batches(folder / "a.npz", inputs.graph_inputs(model)))
    assert [batch["ids"].shape for batch in found] == [(4, 3), (4, 3)]
    np.save(folder / "b.npy", np.zeros((4, 3), np.int64))
    message = fails(1, "build", tmp_path / "model.onnx", "--int8", "--calibrate", folder, "--output", tmp_path / "x.onnx", env=PYTHON)
    assert "give .npz files with an array for each" in message


def test_weights_in_files_beside_the_model(tmp_path):
    model = onnx.load(MODEL)
    onnx.save(model, tmp_path / "digits.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    said = as_json("build", tmp_path / "digits.onnx", "--variant", "fp16", "--output", tmp_path / "x.onnx", "--verify", env=PYTHON)
    assert said["verify"]["good"] and said["bytes"] > 400_000
