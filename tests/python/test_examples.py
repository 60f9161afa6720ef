"""The examples do what they say, through public headers alone, and fail with a message."""

import re
import subprocess

import pytest

from cli_helpers import BINARY, DIGITS, ROOT

FOLDER = ROOT / "examples"
SOURCES = sorted(FOLDER.glob("*.cpp"))
NAMES = [source.stem for source in SOURCES]


def example(name, *arguments, cwd=ROOT):
    """Runs the example that was built beside the program."""
    return subprocess.run([BINARY.parent / f"example_{name}", *map(str, arguments)], capture_output=True, text=True,
                          timeout=120, cwd=cwd)


def output_of(name):
    done = example(name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_list_is_complete():
    assert NAMES == ["callbacks", "custom_preprocessing", "first_program", "several_models", "your_own_data"]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_sources_stand_alone(source):
    text = source.read_text()
    assert text.startswith("// ")
    foreign = [name for name in re.findall(r'#include ["<]([^">]+)[">]', text)
               if "/" in name and not name.startswith("millrace/") and name != "dlpack/dlpack.h"]
    assert foreign == []
    assert '#include "' not in text


def test_the_first_program_is_short():
    assert len((FOLDER / "first_program.cpp").read_text().splitlines()) < 30


@pytest.mark.parametrize("name", NAMES)
def test_the_model_may_be_named(name, tmp_path):
    """From another folder the default is not found: the message says what was looked for."""
    assert example(name, DIGITS / "digits.onnx", cwd=tmp_path).returncode == 0
    missing = example(name, cwd=tmp_path)
    assert missing.returncode == 1
    assert '"examples/digits/digits.onnx" does not exist' in missing.stdout + missing.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_model_is_an_error(name, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((DIGITS / "digits.onnx").read_bytes()[:1000])
    done = example(name, broken)
    assert done.returncode == 1
    assert 'model "broken"' in done.stdout + done.stderr


def test_first_program():
    assert re.fullmatch(r"This is a 4 \(probability (0\.9\d\d|1\.000)\)\.\n", output_of("first_program"))


def test_several_models():
    output = output_of("several_models")
    shares = {device: int(count) for count, device in re.findall(r"^  (\d+) from (host:\d)$", output.split("neighbour:")[0], re.M)}
    assert set(shares) == {"host:0", "host:1"} and sum(shares.values()) == 1000
    assert "neighbour: 40 answers\n  40 from host:1\n" in output
    held = dict(re.findall(r"^(host:\d) holds(.*)$", output, re.M))
    assert 'model "digits"' in held["host:0"] and 'model "neighbour"' not in held["host:0"]
    assert 'model "digits"' in held["host:1"] and 'model "neighbour"' in held["host:1"]


def test_your_own_data():
    assert output_of("your_own_data").splitlines() == [
        "imported: [1,1,8,8], same address: yes",
        "batches that read the input where it lay: 1 of 1",
        "pixels alive after the answer: 0",
        "exported: same address: yes; the digit is a 4",
    ]


def test_callbacks():
    taken, digits, slow = output_of("callbacks").splitlines()
    assert taken == "taken back: yes"
    mean = re.fullmatch(r"digits: 5000 succeeded, 0 cancelled, 0 expired, 0 failed; mean batch ([\d.]+)", digits)
    assert float(mean[1]) > 1  # that many at once must have shared batches
    assert slow == "slow: 1 succeeded, 1 cancelled, 1 expired, 0 failed; mean batch 1.0"


def test_custom_preprocessing():
    assert output_of("custom_preprocessing").splitlines() == [
        "400 of 400 answers are in the caller's table",
        "400 of 400 digits were read right",
    ]
