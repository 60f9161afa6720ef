"""Builds an ONNX graph node by node, with seeded random weights, and counts parameters and multiplications.

Weights keep activations at about the same size from layer to layer, so that FP16 holds all of them. Part of the mean of
every filter is taken out. Without that, what rectifiers add to all channels grows until the answers of a deep network
hardly depend on the input; without any mean, differences grow, until FP16 and FP32 give different answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BATCH = "batch"
OPSET, IR_VERSION = 17, 8
CUSTOM_DOMAIN = "millrace"
MISH_NODE = "MillraceMish"  # not "Mish": TensorRT's parser has a layer of that name and takes it before any plug-in

CENTRING = 0.25  # the part of a filter's mean that is taken out
# The deviation s of x ~ N(0, s^2) at which var f(x) + ((1 - CENTRING) mean f(x))^2 is 1, for each activation f.
GAIN = {None: 1.0, "Relu": 1.5243, "LeakyRelu": 1.493, "Mish": 1.5105}
LEAKY_SLOPE = 0.1
BIAS_SPREAD = 0.1


@dataclass(frozen=True)
class Options:
    seed: int = 0
    fp16: bool = False  # weights and computation; inputs and outputs stay FP32
    mish_node: str | None = None  # operator of CUSTOM_DOMAIN for Mish; None writes it as standard operators


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # of one item: without the batch dimension


@dataclass
class Builder:
    name: str
    options: Options = field(default_factory=Options)
    parameters: int = 0
    macs: int = 0  # multiplications of matrix products and convolutions for one item

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.options.seed)
        self._float = np.float16 if self.options.fp16 else np.float32
        self._nodes: dict[str, onnx.NodeProto] = {}  # by the tensor that each makes
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._weights: dict[str, np.ndarray] = {}

    # --- Graph ---

    def input(self, name: str, shape: Sequence[int], element: int = TensorProto.FLOAT) -> Tensor:
        self._inputs.append(helper.make_tensor_value_info(name, element, [BATCH, *shape]))
        x = Tensor(name, tuple(shape))
        return self.as_float(x, f"{name}.fp16") if element == TensorProto.FLOAT and self.options.fp16 else x

    def output(self, x: Tensor, name: str) -> None:
        """Gives a tensor that no node uses to the caller, as FP32."""
        if self.options.fp16:
            self.op("Cast", [x], name, x.shape, to=TensorProto.FLOAT)
        else:
            node = self._nodes[name] = self._nodes.pop(x.name)
            node.name = node.output[0] = name
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *x.shape]))

    def op(self, kind: str, inputs: Sequence[Tensor | str], name: str, shape: Sequence[int], domain: str = "",
           **attributes: Any) -> Tensor:
        return self.ops(kind, inputs, [name], shape, domain, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[Tensor | str], names: Sequence[str], shape: Sequence[int],
            domain: str = "", **attributes: Any) -> list[Tensor]:
        """A node whose outputs, all of the same shape, have these names; the node has that of the first."""
        if taken := set(names) & self._nodes.keys():
            raise ValueError(f"{taken} would be made twice")
        used = [x if isinstance(x, str) else x.name for x in inputs]
        node = helper.make_node(kind, used, list(names), name=names[0], domain=domain, **attributes)
        self._nodes[names[0]] = node
        return [Tensor(name, tuple(shape)) for name in names]

    def weight(self, name: str, value: np.ndarray) -> str:
        """A trained tensor, counted, in the type computed in."""
        self.parameters += value.size
        return self._initializer(name, value.astype(self._float))

    def scalar(self, name: str, value: float) -> str:
        return self._initializer(name, np.array(value, self._float))

    def integers(self, name: str, values: Sequence[int]) -> str:
        return self._initializer(name, np.array(values, np.int64))

    def floats(self, name: str, values: Sequence[float]) -> str:
        """FP32 whatever is computed in, as the scales of Resize are."""
        return self._initializer(name, np.array(values, np.float32))

    def _initializer(self, name: str, value: np.ndarray) -> str:
        if name in self._weights and not np.array_equal(self._weights[name], value):
            raise ValueError(f"{name} would have two values")
        self._weights[name] = np.asarray(value, order="C")
        return name

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            list(self._nodes.values()), self.name, self._inputs, self._outputs,
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()])
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == CUSTOM_DOMAIN for node in graph.node):
            opsets.append(helper.make_opsetid(CUSTOM_DOMAIN, 1))
        model = helper.make_model(graph, producer_name="millrace", ir_version=IR_VERSION, opset_imports=opsets)
        onnx.checker.check_model(model, full_check=True)
        return model

    # --- Layers ---

    def as_float(self, x: Tensor, name: str) -> Tensor:
        """In the type computed in."""
        return self.op("Cast", [x], name, x.shape, to=helper.np_dtype_to_tensor_dtype(np.dtype(self._float)))

    def normal(self, shape: Sequence[int], spread: float) -> np.ndarray:
        return self.rng.standard_normal(shape, np.float32) * np.float32(spread)

    def add(self, a: Tensor, b: Tensor, name: str) -> Tensor:
        return self.op("Add", [a, b], name, a.shape)

    def activation(self, kind: str | None, x: Tensor, name: str) -> Tensor:
        match kind:
            case None:
                return x
            case "LeakyRelu":
                return self.op(kind, [x], name, x.shape, alpha=LEAKY_SLOPE)
            case "Mish" if self.options.mish_node:
                return self.op(self.options.mish_node, [x], name, x.shape, domain=CUSTOM_DOMAIN)
            case "Mish":  # x * tanh(ln(1 + e^x)); an operator of its own from opset 18 on
                softplus = self.op("Softplus", [x], f"{name}.softplus", x.shape)
                tanh = self.op("Tanh", [softplus], f"{name}.tanh", x.shape)
                return self.op("Mul", [x, tanh], name, x.shape)
            case _:
                return self.op(kind, [x], name, x.shape)

    def conv(self, x: Tensor, channels: int, kernel: int, name: str, stride: int = 1, activation: str | None = None,
             scale: float = 1.0) -> Tensor:
        """A convolution with its normalization folded in, padded so that stride 1 keeps the size."""
        inputs, *size = x.shape
        filters = self.normal((channels, inputs, kernel, kernel), 1.0)
        filters -= np.float32(CENTRING) * filters.mean(axis=(1, 2, 3), keepdims=True)
        filters *= np.float32(scale * GAIN[activation] / np.sqrt(inputs * kernel * kernel))
        pad = kernel // 2
        shape = (channels, *((side + 2 * pad - kernel) // stride + 1 for side in size))
        self.macs += prod(shape) * inputs * kernel * kernel
        weight = self.weight(f"{name}.weight", filters)
        bias = self.weight(f"{name}.bias", self.normal((channels,), BIAS_SPREAD))
        y = self.op("Conv", [x, weight, bias], name, shape, kernel_shape=[kernel] * 2, pads=[pad] * 4,
                    strides=[stride] * 2)
        return self.activation(activation, y, f"{name}.{(activation or '').lower()}")

    def max_pool(self, x: Tensor, kernel: int, name: str, stride: int = 1) -> Tensor:
        channels, *size = x.shape
        pad = kernel // 2
        shape = (channels, *((side + 2 * pad - kernel) // stride + 1 for side in size))
        return self.op("MaxPool", [x], name, shape, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2)

    def dense(self, x: Tensor, width: int, name: str, spread: float) -> Tensor:
        """[..., I] to [..., width]: Gemm where there is one row per item, MatMul and Add where there are more."""
        *rows, inputs = x.shape
        self.macs += prod(rows) * inputs * width
        weight = self.weight(f"{name}.weight", self.normal((inputs, width), spread))
        bias = self.weight(f"{name}.bias", self.normal((width,), BIAS_SPREAD))
        if not rows:
            return self.op("Gemm", [x, weight, bias], name, (width,))
        product = self.matmul(x, weight, f"{name}.product", (*rows, width))
        return self.op("Add", [product, bias], name, product.shape)

    def matmul(self, a: Tensor, b: Tensor | str, name: str, shape: Sequence[int]) -> Tensor:
        """Products of two activations are counted here; those with weights by dense()."""
        if isinstance(b, Tensor):
            self.macs += prod(shape) * a.shape[-1]
        return self.op("MatMul", [a, b], name, shape)
