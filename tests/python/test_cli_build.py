"""millrace build and millrace cache: what they refuse, and the cache's contents. Without a GPU nothing is built."""

import json

import pytest
from cli_helpers import DIGITS, as_json, check_schema, fails, succeeds

MODEL = DIGITS / "digits.onnx"
HAS_GPU = as_json("devices")["cuda"]["visible_gpus"] > 0


def without_tensorrt():
    return any("built without TensorRT" in b["reason"] for b in as_json("devices")["backends"])


pytestmark = pytest.mark.skipif(without_tensorrt(), reason="the program was built without TensorRT")


@pytest.mark.parametrize("arguments, message", [
    ([], "MODEL is required"),
    ([MODEL, "--precision", "fp4"], "--precision"),
    ([MODEL, "--precision", ""], "--precision"),
    ([MODEL, "--batch", "0"], '--batch: expected a whole number of 1 or more, got "0"'),
    ([MODEL, "--batch", "many"], '--batch: expected a whole number of 1 or more, got "many"'),
    ([MODEL, "--batch", "1.."], '--batch: expected a whole number of 1 or more, got ""'),
    ([MODEL, "--batch", "1..2..3..4"], "--batch: expected MAX, MIN..MAX or MIN..BEST..MAX"),
    ([MODEL, "--batch", "8..4"], '--batch: expected ascending sizes, got "8..4"'),
    ([MODEL, "--batch", "1..8..4"], '--batch: expected ascending sizes, got "1..8..4"'),
    ([MODEL, "--batch", "4..2..8"], '--batch: expected ascending sizes, got "4..2..8"'),
    ([MODEL, "--shape", ""], "--shape: expected INPUT=MIN:BEST:MAX"),
    ([MODEL, "--shape", "images"], "--shape: expected INPUT=MIN:BEST:MAX or INPUT=SHAPE, each as 1x3x224x224, got \"images\""),
    ([MODEL, "--shape", "images=1x2:3x4"], "--shape: expected INPUT=MIN:BEST:MAX"),
    ([MODEL, "--shape", "images="], '--shape: expected a whole number of 1 or more, got ""'),
    ([MODEL, "--shape", "images=1x0"], '--shape: expected a whole number of 1 or more, got "0"'),
    ([MODEL, "--shape", "images=1x-1"], "--shape"),
    ([MODEL, "--max", "images"], '--max: expected INPUT=SHAPE, as images=1x3x224x224, got "images"'),
    ([MODEL, "--min", "images=1x1x8x8"], '--min and --opt need --max: there is none of "images"'),
    ([MODEL, "--max", "images=4x1x8x8"], '--min, --opt and --max of "images": expected one of each for every profile'),
    ([MODEL, "--min", "images=1x1x8x8", "--max", "images=4x1x8x8", "--max", "images=8x1x8x8"], "one of each for every profile"),
    ([MODEL, "--variant", "fp4"], "--variant"),
    ([MODEL, "--variant", "int8"], "--variant int8 needs --calibrate FOLDER"),
    ([MODEL, "--int8", "--variant", "fp16"], "--int8 is --variant int8, and --variant fp16 was given"),
    ([MODEL, "--calibrate", "folder"], "--calibrate and --calibration go with --variant int8 or fp8"),
    ([MODEL, "--variant", "fp16", "--calibrate", "folder"], "--calibrate and --calibration go with --variant int8 or fp8"),
    ([MODEL, "--keep", "Conv"], "--keep goes with --variant"),
    ([MODEL, "--variant", "fp16", "--precision", "fp16"], "--precision does not go with --variant"),
    ([MODEL, "--output", "model.onnx"], "--output: an ONNX file is what --variant makes"),
    ([MODEL, "--calibration-cache", "file"], "--calibration-cache goes with --precision int8"),
    ([MODEL, "--verify-threshold", "0.1"], "--verify-threshold goes with --verify"),
    ([MODEL, "--verify", "--verify-threshold", "0"], "--verify-threshold"),
    ([MODEL, "--optimization-level", "6"], "--optimization-level"),
    ([MODEL, "--workspace", "0"], "--workspace"),
    ([MODEL, "--aux-streams", "-1"], "--aux-streams"),
    ([MODEL, "--fast"], "--fast"),
])
def test_wrong_usage_of_build(arguments, message):
    found = fails(2, "build", *arguments)
    assert message in found
    assert found.endswith('see "millrace build --help"')


@pytest.mark.parametrize("arguments", [[], ["empty"], ["list", "--all"], ["list", "clear"]])
def test_wrong_usage_of_cache(arguments):
    assert fails(2, "cache", *arguments).endswith('see "millrace cache --help"')


@pytest.mark.parametrize("options", [
    [], ["--json"], ["--verify"], ["--variant", "fp16"], ["--batch", "1..4..8", "--precision", "fp16", "--shape", "images=1x1x8x8:2x1x8x8:4x1x8x8"],
    ["--min", "images=1x1x8x8", "--max", "images=4x1x8x8", "--min", "images=8x1x8x8", "--opt", "images=2x1x8x8",
     "--opt", "images=9x1x8x8", "--max", "images=16x1x8x8"]])
@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_a_gpu_nothing_is_built(tmp_path, options):
    output = tmp_path / "digits.plan"
    message = fails(1, "build", MODEL, "--output", output, *options)
    assert "cuda:0" in message and as_json("devices")["cuda"]["reason"] in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option, words", [
    ("--refit", "--refit: engines that are refitted with other weights are not supported by Millrace"),
    ("--weight-streaming", "--weight-streaming: engines that stream their weights from host memory are not supported by Millrace")])
def test_what_is_not_supported_is_named(tmp_path, option, words):
    assert fails(1, "build", MODEL, "--output", tmp_path / "digits.plan", option) == words


def test_devices_that_are_no_gpu_are_refused(tmp_path):
    for device, message in (("host", "an engine is built on and for a GPU, as in cuda:0; got host:0"), ("cuda:99", "cuda:99"), ("toaster", "toaster")):
        assert message in fails(1, "build", MODEL, "--device", device, "--output", tmp_path / "digits.plan")
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_read_are_named(tmp_path):
    assert f'cannot read "{tmp_path}/none.onnx": No such file' in fails(1, "build", tmp_path / "none.onnx")
    assert "it is a folder" in fails(1, "build", tmp_path)
    assert list(tmp_path.iterdir()) == []


LIST = {"folder": str, "engines": [{"file": str, "bytes": int, "model": str, "device": str, "builder": str, "options": str}]}


@pytest.fixture
def cache(tmp_path):
    """A folder of two engines, one of them without a description, and what is no engine."""
    folder = tmp_path / "engines"
    folder.mkdir()
    about = {"model": "/models/resnet50.onnx", "device": "NVIDIA H200 (9.0)", "builder": "TensorRT 10.6.0", "options": "precision=fp16"}
    (folder / "resnet50-0123.plan").write_bytes(bytes(3000))
    (folder / "resnet50-0123.json").write_text(json.dumps(about))
    (folder / "resnet50-0123.lock").touch()
    (folder / "unknown-4567.plan").write_bytes(b"plan")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_the_cache_is_listed(cache):
    env = {"MILLRACE_CACHE": str(cache)}
    found = as_json("cache", "list", env=env)
    check_schema(found, LIST)
    assert found["folder"] == str(cache)
    assert found["engines"] == [
        {"file": str(cache / "resnet50-0123.plan"), "bytes": 3000, "model": "/models/resnet50.onnx", "device": "NVIDIA H200 (9.0)",
         "builder": "TensorRT 10.6.0", "options": "precision=fp16"},
        {"file": str(cache / "unknown-4567.plan"), "bytes": 4, "model": "", "device": "", "builder": "", "options": ""}]
    text = succeeds("cache", "list", env=env)
    for words in (f'Engines in "{cache}"', "/models/resnet50.onnx", "NVIDIA H200 (9.0)", "TensorRT 10.6.0", "2.93 KiB", "precision=fp16"):
        assert words in text
    assert json.loads(succeeds("cache", "--json", "list", env=env)) == found


def test_the_cache_is_cleared_of_engines_only(cache):
    env = {"MILLRACE_CACHE": str(cache)}
    assert succeeds("cache", "clear", env=env) == "Removed 2 engines.\n"
    assert [p.name for p in cache.iterdir()] == ["notes.txt"]
    assert succeeds("cache", "clear", env=env) == "Removed 0 engines.\n"
    (cache / "one.plan").touch()
    assert succeeds("cache", "clear", env=env) == "Removed 1 engine.\n"
    (cache / "one.plan").touch()
    assert as_json("cache", "clear", env=env) == {"folder": str(cache), "removed": 1}


def test_an_empty_cache_is_fine(tmp_path):
    folder = tmp_path / "none"
    env = {"MILLRACE_CACHE": str(folder)}
    assert succeeds("cache", "list", env=env) == f'The engine cache "{folder}" is empty.\n'
    assert as_json("cache", "list", env=env) == {"folder": str(folder), "engines": []}
    assert as_json("cache", "clear", env=env)["removed"] == 0
    assert not folder.exists()


def test_the_cache_is_where_the_user_keeps_caches(tmp_path):
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}
    assert as_json("cache", "list", env=home)["folder"] == f"{tmp_path}/home/.cache/millrace/engines"
    assert as_json("cache", "list", env=home | {"XDG_CACHE_HOME": "/xdg"})["folder"] == "/xdg/millrace/engines"


def test_a_cache_that_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    for verb in ("list", "clear"):
        message = fails(1, "cache", verb, env={"MILLRACE_CACHE": str(file)})
        assert message == f'the engine cache "{file}" cannot be read: Not a directory'
    assert file.read_text() == "in the way"
