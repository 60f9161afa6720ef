"""python3 -m millrace_variants MODEL.onnx --variant fp16|bf16|int8|fp8 --output FILE.onnx

What `millrace build --variant` runs. Writes one JSON object per line to standard output: {"phase", "step", "steps"} while
it works, and at the end {"done": {...}} or {"error": MESSAGE, "code": CODE} (exit code 1). Needs the packages onnx and
numpy, for int8 and fp8 onnxruntime as well.
"""

import argparse
import contextlib
import json
import logging
import os
import sys

from .failure import Failure

LARGEST = 2_000_000_000  # bytes of a file that protobuf reads


def tell(**content):
    print(json.dumps(content), file=sys.__stdout__, flush=True)


def progress(phase, step, steps):
    tell(phase=phase, step=step, steps=steps)


def load(path):
    import onnx
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise Failure(f'cannot read "{error.filename or path}": there is no such file', "not_found") from None
    except Exception as error:  # protobuf's own, of no common kind
        raise Failure(f'cannot read "{path}" as ONNX: {error}') from None
    if not model.graph.node:
        raise Failure(f'"{path}" holds no ONNX graph')
    return model


def make(options):
    progress("reading", 0, 1)
    open(options.output, "wb").close()  # a folder that cannot be written to is found before the long work
    import onnx
    model = load(options.model)
    variants = [entry.value for entry in model.metadata_props if entry.key == "millrace_variant"]
    if variants:
        raise Failure(f'"{options.model}" is a variant in {variants[0]} already; give the model that it was made from')
    if options.variant in ("int8", "fp8"):
        from .quantize import with_qdq
        result = with_qdq(model, options.variant, options.calibrate, options.calibration, options.keep, progress)
    else:
        from .casts import with_casts
        progress("converting", 0, 1)
        result = with_casts(model, options.variant, options.keep)
    entry = result.metadata_props.add()
    entry.key, entry.value = "millrace_variant", options.variant
    result.producer_name = "millrace"
    progress("writing", 0, 1)
    if result.ByteSize() > LARGEST:
        raise Failure(f"the variant has {result.ByteSize():,} bytes, more than one ONNX file holds ({LARGEST:,})", "unsupported")
    onnx.checker.check_model(result, full_check=True)
    save(result, options.output)
    if options.twin and options.variant == "bf16":
        from .casts import rounding_twin
        save(rounding_twin(result), options.twin)
    operators = [node.op_type for node in result.graph.node]
    tell(done={"bytes": os.path.getsize(options.output), "nodes": len(operators),
               "casts": operators.count("Cast"), "quantized": operators.count("DequantizeLinear")})


def save(model, path):
    with open(path, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def main():
    parser = argparse.ArgumentParser(prog="millrace_variants", description="Writes a variant of an ONNX model.")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--variant", choices=["fp16", "bf16", "int8", "fp8"], required=True)
    parser.add_argument("--output", metavar="FILE", required=True)
    parser.add_argument("--calibrate", metavar="FOLDER", help="real inputs, for int8 and fp8")
    parser.add_argument("--calibration", choices=["minmax", "entropy", "percentile"], default="minmax")
    parser.add_argument("--keep", action="append", default=[], metavar="NAME", help="an operator or node that stays FP32")
    parser.add_argument("--twin", metavar="FILE", help="for bf16: a model that gives the same on a CPU")
    options = parser.parse_args()
    if options.variant in ("int8", "fp8") and not options.calibrate:
        parser.error(f"--variant {options.variant} needs --calibrate FOLDER")
    logging.disable(logging.WARNING)  # the libraries' advice
    try:
        with contextlib.redirect_stdout(sys.stderr):
            make(options)
        return 0
    except Failure as failure:
        tell(error=str(failure), code=failure.code)
    except ImportError as error:
        tell(error=f"{error}; it needs the Python packages onnx, onnxruntime and numpy: {sys.executable} -m pip install onnx "
                   "onnxruntime numpy", code="unavailable")
    except MemoryError:
        tell(error="no memory left", code="out_of_memory")
    except OSError as error:
        tell(error=f'cannot write "{error.filename or options.output}": {error.strerror}', code="unavailable")
    except Exception as error:  # of the libraries: their words are all there is
        tell(error=f"{type(error).__name__}: {error}", code="internal")
    return 1


if __name__ == "__main__":
    sys.exit(main())
