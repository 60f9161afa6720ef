#!/usr/bin/env python3
"""Writes the models of the benchmarks as ONNX files: real architectures with seeded random weights.

    write.py resnet50 mlp --output DIR                   DIR/resnet50.onnx and DIR/mlp.onnx
    write.py resnet50 --output DIR --fp16                DIR/resnet50-fp16.onnx
    write.py yolov4-416 --output DIR --mish-node         DIR/yolov4-416-mish-node.onnx

One seed gives the same bytes every time. Needs the onnx and numpy packages.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import bert
import builder
import mlp
import resnet
import yolov4
from builder import Builder, Options


@dataclass(frozen=True)
class Architecture:
    build: Callable[[Builder], None]
    parameters: int
    macs: int  # of one item


MODELS = {
    "resnet50": Architecture(resnet.resnet50, resnet.PARAMETERS, resnet.MACS),
    **{f"bert-base-{length}": Architecture(partial(bert.bert_base, sequence=length), bert.PARAMETERS, macs)
       for length, macs in bert.MACS.items()},
    **{f"yolov4-{size}": Architecture(partial(yolov4.yolov4, size=size), yolov4.PARAMETERS, macs)
       for size, macs in yolov4.MACS.items()},
    "mlp": Architecture(mlp.mlp, mlp.PARAMETERS, mlp.MACS),
}


def build(name: str, options: Options) -> Builder:
    """The graph of a model, with exactly the parameters and the work that its architecture has."""
    architecture, b = MODELS[name], Builder(name, options)
    architecture.build(b)
    expected, found = (architecture.parameters, architecture.macs), (b.parameters, b.macs)
    assert found == expected, f"{name}: (parameters, MACs) should be {expected}, are {found}"
    return b


def file_name(name: str, options: Options) -> str:
    return name + "-fp16" * options.fp16 + "-mish-node" * bool(options.mish_node) + ".onnx"


def write(name: str, options: Options, folder: Path) -> Path:
    path, b = folder / file_name(name, options), build(name, options)
    content = b.model().SerializeToString(deterministic=True)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    print(f"{path}  {b.parameters:,} parameters  {b.macs:,} MACs per item  {len(content) / 1e6:.1f} MB")
    return path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Writes the models of the benchmarks as ONNX files.")
    parser.add_argument("models", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (%(default)s)")
    parser.add_argument("--fp16", action="store_true", help="FP16 weights and computation; FP32 inputs and outputs")
    parser.add_argument("--mish-node", nargs="?", const=builder.MISH_NODE, metavar="OPERATOR",
                        help=f"write Mish as one node of the domain {builder.CUSTOM_DOMAIN} (%(const)s)")
    given = parser.parse_args(arguments)
    if given.mish_node and any(not name.startswith("yolov4") for name in given.models):
        parser.error("--mish-node is for models with Mish: yolov4-416, yolov4-608")
    for name in given.models:
        write(name, Options(given.seed, given.fp16, given.mish_node), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
