#!/usr/bin/env python3
"""Variants of the digits model through TensorRT: made on any machine, measured on one with a GPU.

    tests/gpu/variants.py prepare [--folder build/gpu-variants]     needs onnx, onnxruntime and scikit-learn, and no GPU
    tests/gpu/variants.py run [--folder build/gpu-variants] [--bin build/dev/bin] [--report FILE]

`prepare` calibrates on images of the training part and writes the variants and the test set. `run` needs the program, a GPU,
TensorRT (MILLRACE_TENSORRT) and that folder; it is standard library only. It says of each check whether it passed, and ends with
exit code 1 when one failed. tests/gpu/run.py runs it with the rest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
POINTS = 0.005  # half a percentage point of accuracy
VARIANTS = ("fp16", "bf16", "int8", "fp8")


def prepare(options):
    sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tools" / "models" / "digits")]
    import numpy as np
    import train
    folder = options.folder
    for part in ("calibration", "test_set"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    images, labels = train.load_data()
    np.save(folder / "calibration" / "images.npy", train.nchw(images[train.split_indices(labels)[0]])[:500])
    with np.load(DIGITS / "held_out.npz") as held_out:
        np.save(folder / "test_set" / "images.npy", held_out["images"])
        (folder / "labels.json").write_text(json.dumps(held_out["labels"].tolist()))
    for variant in VARIANTS:
        command = [sys.executable, "-m", "millrace_variants", DIGITS / "digits.onnx", "--variant", variant,
                   "--output", folder / f"digits.{variant}.onnx"]
        if variant in ("int8", "fp8"):
            command += ["--calibrate", folder / "calibration"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT / "python")})
    print(f"wrote {', '.join(VARIANTS)} to {folder}")


class NotChecked(Exception):
    """What this machine cannot show."""


class Checks:
    def __init__(self, options, scratch):
        self.folder, self.program, self.scratch = options.folder, (options.bin / "millrace").resolve(), scratch
        self.results = []

    def millrace(self, *arguments):
        return subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def check(self, name, body):
        try:
            said = body()
            result, why = "ran", ""
        except NotChecked as reason:
            said, result, why = "", "not checked", str(reason)
        except Exception as error:  # whatever it is, the others go on
            said, result, why = "", "failed", f"{type(error).__name__}: {error}"
        self.results.append({"suite": "variants", "test": name, "result": result, "why": why})
        print(f"[{ {'ran': '  ok  ', 'failed': 'FAILED', 'not checked': 'NOT CHECKED'}[result] }] variants.{name} {said or why}", flush=True)

    def accuracy(self, model, *options):
        cache = self.scratch / "cache"
        done = self.millrace("run", model, "--devices", "0", "--backend", "tensorrt", "--input", DIGITS / "held_out.npz", "--top", "1", "--json",
                             "--option", f"cache={cache}", "--option", "optimization_level=1", *options)
        assert done.returncode == 0, done.stderr.strip()
        labels = json.loads((self.folder / "labels.json").read_text())
        answers = json.loads(done.stdout)["results"]
        assert len(answers) == len(labels), f"{len(answers)} answers to {len(labels)} images"
        return sum(answer["top"][0]["class"] == label for answer, label in zip(answers, labels)) / len(labels)

    def as_good_as_fp32(self, model, *options):
        full = self.accuracy(DIGITS / "digits.onnx", "--option", "precision=fp32")
        found = self.accuracy(model, *options)
        assert full >= 0.97 and abs(found - full) <= POINTS, f"accuracy {found:.4f}, in FP32 {full:.4f}"
        return f"accuracy {found:.4f}, in FP32 {full:.4f}"

    def builds(self, model, *options, code=0, words=""):
        plan = self.scratch / "digits.plan"
        plan.unlink(missing_ok=True)
        done = self.millrace("build", model, "--output", plan, "--optimization-level", "1", *options)
        said = (done.stdout + done.stderr).strip()
        assert done.returncode == code and words in said, f"exit code {done.returncode}: {said}"
        return " | ".join(said.splitlines()[-3:])

    def version_compatible(self, model, test_set):
        """TensorRT takes its lean runtime into such an engine, and not every installation has that."""
        try:
            return self.builds(model, "--version-compatible", f"--verify={test_set}")
        except AssertionError as error:
            if "libnvinfer_lean" not in str(error):
                raise
            raise NotChecked("libnvinfer_lean.so is not beside TensorRT") from None

    def layers_name_int8(self):
        file = self.scratch / "layers.json"
        self.builds(self.folder / "digits.int8.onnx", "--layers", file)
        text = file.read_text()
        json.loads(text)
        assert "Int8" in text or "INT8" in text, f"no layer computes in INT8: {text[:2000]}"

    def runs_over_two_profiles(self):
        bounds = ["--min", "images=1x1x8x8", "--max", "images=4x1x8x8", "--min", "images=1x1x8x8", "--max", "images=64x1x8x8"]
        self.builds(DIGITS / "digits.onnx", *bounds)
        done = self.millrace("run", self.scratch / "digits.plan", "--devices", "0", "--input", DIGITS / "held_out.npz", "--json")
        assert done.returncode == 0, done.stderr.strip()

    def run(self):
        model, test_set = DIGITS / "digits.onnx", self.folder / "test_set"
        for variant in VARIANTS:
            file = self.folder / f"digits.{variant}.onnx"
            self.check(f"accuracy_{variant}", lambda file=file: self.as_good_as_fp32(file))
            self.check(f"verify_typed_{variant}", lambda file=file: self.builds(file, "--verify-threshold", "0.05", f"--verify={test_set}")
                       if file.name != "digits.bf16.onnx" else self.builds(file))
        for precision in ("fp32", "tf32", "fp16", "bf16"):
            self.check(f"verify_{precision}", lambda precision=precision: self.builds(model, "--precision", precision, f"--verify={test_set}", words="good"))
        self.check("fallback_int8", lambda: self.as_good_as_fp32(self.folder / "digits.int8.onnx", "--option", "precision=int8"))
        self.check("int8_without_ranges", lambda: self.builds(model, "--precision", "int8", code=1, words="has no Q/DQ nodes"))
        self.check("not_good", lambda: self.builds(model, "--precision", "fp16", "--verify-threshold", "1e-12", f"--verify={test_set}", code=1,
                                                   words="is not good"))
        self.check("random_inputs", lambda: self.builds(model, "--precision", "fp16", "--verify", words="random inputs"))
        self.check("layers", self.layers_name_int8)
        self.check("two_profiles", self.runs_over_two_profiles)
        self.check("hardware_compatible", lambda: self.builds(model, "--hardware-compatible", f"--verify={test_set}"))
        self.check("version_compatible", lambda: self.version_compatible(model, test_set))


def run(options):
    if not (options.folder / "labels.json").exists():
        results = [{"suite": "variants", "test": "(all)", "result": "not checked",
                    "why": f'{options.folder} is not there: "tests/gpu/variants.py prepare" makes it'}]
    else:
        with tempfile.TemporaryDirectory() as scratch:
            checks = Checks(options, Path(scratch))
            checks.run()
            results = checks.results
    if options.report:
        options.report.write_text(json.dumps(results))
    failed = sum(result["result"] == "failed" for result in results)
    print(f"variants: {len(results)} checks, {failed} failed")
    return int(failed > 0)


def main():
    parser = argparse.ArgumentParser(description="Variants of the digits model through TensorRT.")
    parser.add_argument("step", choices=["prepare", "run"])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu-variants", help="default: %(default)s")
    parser.add_argument("--bin", type=Path, default=Path("build/dev/bin"), help="where the program is (default: %(default)s)")
    parser.add_argument("--report", type=Path, help="where to write the results as JSON")
    options = parser.parse_args()
    return run(options) if options.step == "run" else prepare(options)


if __name__ == "__main__":
    sys.exit(main())
