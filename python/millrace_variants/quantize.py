"""INT8 and FP8 variants: Q/DQ nodes before convolutions and matrix products, with ranges seen on real inputs.

FP8 (E4M3) is made of INT8: the same nodes, with scales for its range. Matrix products only: TensorRT's convolutions take FP8
in few shapes.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from . import inputs
from .failure import Failure

OPERATORS = {"int8": ["Conv", "Gemm", "MatMul"], "fp8": ["Gemm", "MatMul"]}
LARGEST_INT8, LARGEST_FP8 = 127, 448
METHODS = {"minmax": CalibrationMethod.MinMax, "entropy": CalibrationMethod.Entropy,
           "percentile": CalibrationMethod.Percentile}
OPSETS = {"int8": 13, "fp8": 19}  # in which the operators may have these types, and scales by channel


class Reader(CalibrationDataReader):
    """Histograms are made of tensors of one shape, hence of single rows."""

    def __init__(self, files, wanted, rows, progress):
        self.files, self.wanted, self.rows, self.progress = files, wanted, rows, progress
        self.rewind()

    def rewind(self):
        self.batches = self.walk()

    def walk(self):
        for done, path in enumerate(self.files):
            yield from inputs.batches(path, self.wanted, self.rows)
            self.progress("calibrating", done + 1, len(self.files))

    def get_next(self):
        return next(self.batches, None)


def prepared(model, variant, folder):
    """In a sufficient opset, and with normalizations folded into the convolutions before them."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if opset < OPSETS[variant]:
        model = onnx.version_converter.convert_version(model, OPSETS[variant])
    if any(node.op_type == "BatchNormalization" for node in model.graph.node):
        source, target = Path(folder) / "given.onnx", Path(folder) / "folded.onnx"
        onnx.save(model, source)
        quant_pre_process(source, target, skip_symbolic_shape=True)
        model = onnx.load(target)
    return model


def in_fp8(model):
    """INT8 Q/DQ nodes made FP8: what was 127 becomes 448."""
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales, zeros = {node.input[1] for node in nodes}, {node.input[2] for node in nodes}
    fp8 = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
    for weight in model.graph.initializer:
        value = numpy_helper.to_array(weight)
        if weight.name in scales:
            weight.CopyFrom(numpy_helper.from_array(value * np.float32(LARGEST_INT8 / LARGEST_FP8), weight.name))
        elif weight.name in zeros:
            weight.CopyFrom(numpy_helper.from_array(np.zeros(value.shape, fp8), weight.name))
    model.ir_version = max(model.ir_version, 9)
    model.graph.ClearField("value_info")
    return model


def check(model, operators):
    """What TensorRT asks of Q/DQ nodes: zero points of 0, positive scales."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    pairs = 0
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        pairs += node.op_type == "DequantizeLinear"
        scale = numpy_helper.to_array(weights[node.input[1]])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise Failure(f'"{node.input[0]}" has a range of nothing or without end in the inputs given; give others', "unsupported")
        if len(node.input) > 2 and np.any(numpy_helper.to_array(weights[node.input[2]]).astype(np.float32)):
            raise Failure(f'the zero point of "{node.input[0]}" is not 0', "internal")
    if pairs == 0:
        raise Failure(f"the model has none of the operators that are computed in 8 bits: {', '.join(operators)}", "unsupported")


def with_scales_above_zero(model):
    """A channel whose weights are all 0 has a scale of 0, which TensorRT refuses: any other will do."""
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for weight in model.graph.initializer:
        if weight.name in scales and weight.data_type == TensorProto.FLOAT:
            scale = numpy_helper.to_array(weight)
            if (scale == 0).any():
                weight.CopyFrom(numpy_helper.from_array(np.where(scale == 0, np.float32(1), scale), weight.name))
    return model


def with_qdq(model, variant, folder, method, keep, progress):
    """A new model whose Conv, Gemm and MatMul take their inputs through Q/DQ; the rest stays as it is."""
    files = inputs.files_of(folder)
    wanted = inputs.graph_inputs(model)
    operators = OPERATORS[variant]
    rows = inputs.MOST_ROWS if method == "minmax" else 1
    with tempfile.TemporaryDirectory(prefix="millrace-variant-") as scratch:
        model = prepared(model, variant, scratch)
        left_out = [node.name for node in model.graph.node if {node.op_type, node.name} & set(keep)]
        target = Path(scratch) / "quantized.onnx"
        quantize_static(
            model, target, Reader(files, wanted, rows, progress), quant_format=QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=operators, nodes_to_exclude=left_out, activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8, calibrate_method=METHODS[method],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False,
                           "AddQDQPairToWeight": True, "OpTypesToExcludeOutputQuantization": operators})
        quantized = with_scales_above_zero(onnx.load(target))
    check(quantized, operators)
    return in_fp8(quantized) if variant == "fp8" else quantized
