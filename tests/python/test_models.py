"""The test models are those that their script writes."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "models"


def test_script_writes_the_same_files(tmp_path):
    subprocess.run([sys.executable, FOLDER / "make_models.py", tmp_path], check=True, capture_output=True)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in FOLDER.glob("*.onnx")}
    assert sorted(written) == sorted(committed)
    assert written == committed
