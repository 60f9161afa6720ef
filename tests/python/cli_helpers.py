"""Drives the built program: MILLRACE_BIN, or the one of the dev preset."""

import json
import os
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("MILLRACE_BIN", ROOT / "build" / "dev" / "bin" / "millrace"))
DIGITS = ROOT / "examples" / "digits"
TIMEOUT_S = 120


def millrace(*arguments, env=None, stdout=subprocess.PIPE, cwd=None):
    """Runs the program without a terminal, in the C locale unless `env` says otherwise."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "MILLRACE_", "CUDA_", "NO_COLOR"))}
    environment.update(env or {})
    return subprocess.run([BINARY, *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE, text=True,
                          env=environment, timeout=TIMEOUT_S, cwd=cwd)


def succeeds(*arguments, **options):
    done = millrace(*arguments, **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def as_json(*arguments, **options):
    return json.loads(succeeds(*arguments, "--json", **options))


def fails(code, *arguments, **options):
    """The one message of a run that ends with `code`, without its prefix."""
    done = millrace(*arguments, **options)
    assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("millrace: error: "), done.stderr
    return lines[0].removeprefix("millrace: error: ")


def check_schema(value, schema, where="$"):
    """A schema is a type, a tuple of types, a list with the schema of its elements, or a dict with exactly
    these fields (those that end in "?" may be missing)."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), f"{where}: {value!r}"
        known = {name.removesuffix("?") for name in schema}
        assert set(value) <= known, f"{where}: unexpected {set(value) - known}"
        for name, inner in schema.items():
            if name.removesuffix("?") in value:
                check_schema(value[name.removesuffix("?")], inner, f"{where}.{name}")
            else:
                assert name.endswith("?"), f"{where}: no {name}"
    elif isinstance(schema, list):
        assert isinstance(value, list), f"{where}: {value!r}"
        for i, element in enumerate(value):
            check_schema(element, schema[0], f"{where}[{i}]")
    else:
        assert isinstance(value, schema) and not (schema is int and isinstance(value, bool)), f"{where}: {value!r}"


NUMBER = (int, float)
LATENCY = {name: NUMBER for name in ("mean", "p50", "p90", "p99", "p99_9", "max")}


def png(pixels):
    """An 8-bit PNG of [H,W] or [H,W,3] bytes."""
    pixels = np.ascontiguousarray(pixels, np.uint8)
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def held_out():
    with np.load(DIGITS / "held_out.npz") as file:
        return {name: file[name] for name in file.files}
