"""FP16 and BF16 variants: computation in 16 bits, inputs and outputs as they were, with casts at the boundary."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .failure import Failure

TARGETS = {"fp16": (TensorProto.FLOAT16, "tensor(float16)"), "bf16": (TensorProto.BFLOAT16, "tensor(bfloat16)")}
BF16_OPSET = 22  # from there on convolutions and pools may be BF16
# What makes values out of nothing in a type that it names: stays FP32.
GENERATORS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "EyeLike", "Bernoulli"}


def schema_of(node, opsets):
    try:
        return onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
    except Exception:  # a plug-in's operator
        return None


def opsets_of(model):
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opsets.setdefault("", opsets.get("ai.onnx", 1))
    return opsets


def parameter(parameters, index):
    return parameters[min(index, len(parameters) - 1)]


def rounded(array, target):
    """FP32 values in 16 bits; finite ones stay finite."""
    if target == TensorProto.FLOAT16:
        most = np.finfo(np.float16).max
        return np.where(np.isfinite(array), np.clip(array, -most, most), array).astype(np.float16)
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    most = np.float32(3.3895314e38)  # the largest of BF16
    return np.where(np.isfinite(array), np.clip(array, -most, most), array).astype(dtype)


def tensor_of(array, name):
    return numpy_helper.from_array(np.ascontiguousarray(array), name)


class Converter:
    def __init__(self, model, variant, keep):
        self.target, self.target_text = TARGETS[variant]
        self.suffix, self.keep, self.model = variant, set(keep), model
        self.opsets = opsets_of(model)
        graph = model.graph
        typed = onnx.shape_inference.infer_shapes(model).graph
        self.type = {value.name: value.type.tensor_type.elem_type
                     for value in (*typed.value_info, *typed.input, *typed.output)}
        self.constants = {weight.name: weight for weight in graph.initializer}
        for weight in graph.initializer:
            self.type[weight.name] = weight.data_type
        self.results = {value.name for value in graph.output}
        self.nodes, self.alias, self.cache, self.made = [], {}, {}, []
        self.used = set(self.type) | {name for node in graph.node for name in node.output}
        self.converted = 0

    def fresh(self, name):
        found, number = f"{name}.{self.suffix}", 2
        while found in self.used:
            found, number = f"{name}.{self.suffix}.{number}", number + 1
        self.used.add(found)
        return found

    def in_type(self, name, wanted):
        """The name under which tensor `name` (FP32 in the original) is there in the type wanted."""
        name = self.alias.get(name, name)
        if self.type.get(name) == wanted:
            return name
        if (name, wanted) in self.cache:
            return self.cache[name, wanted]
        other = self.fresh(name)
        if name in self.constants and wanted == self.target:
            self.made.append(tensor_of(rounded(numpy_helper.to_array(self.constants[name]), wanted), other))
        else:
            self.nodes.append(helper.make_node("Cast", [name], [other], name=f"{other}.cast", to=wanted))
        self.type[other] = wanted
        self.cache[name, wanted] = other
        return other

    def is_float(self, name):
        return bool(name) and self.type.get(self.alias.get(name, name)) in (TensorProto.FLOAT, self.target) and (
            self.original.get(name) == TensorProto.FLOAT)

    def admits(self, parameters, index):
        return bool(parameters) and self.target_text in parameter(parameters, index).types

    def convertible(self, node, schema):
        if schema is None or {node.op_type, node.name} & self.keep or node.op_type in GENERATORS:
            return False
        outputs = [i for i, name in enumerate(node.output) if self.is_float(name)]
        inputs = [i for i, name in enumerate(node.input) if self.is_float(name)]
        if not all(self.admits(schema.outputs, i) for i in outputs):
            return False
        bound = {parameter(schema.outputs, i).type_str for i in outputs}
        for i in inputs:  # one that is FP32 in any case stays so, unless the outputs' type is its own
            if parameter(schema.inputs, i).type_str in bound and not self.admits(schema.inputs, i):
                return False
        return any(self.admits(schema.inputs, i) for i in inputs) or (not inputs and bool(outputs))

    def convert(self, node):
        schema = schema_of(node, self.opsets)
        change = self.convertible(node, schema)
        for i, name in enumerate(node.input):
            if not name:
                continue
            if self.is_float(name):
                wanted = self.target if change and self.admits(schema.inputs, i) else TensorProto.FLOAT
                node.input[i] = self.in_type(name, wanted)
            else:
                node.input[i] = self.alias.get(name, name)
        if change:
            self.converted += 1
            self.retype_attributes(node)
            for i, name in enumerate(node.output):
                if not self.is_float(name):
                    continue
                if name in self.results:
                    node.output[i] = self.alias[name] = self.fresh(name)
                self.type[node.output[i]] = self.target
        self.nodes.append(node)

    def retype_attributes(self, node):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = self.target
            if node.op_type == "ConstantOfShape" and attribute.name == "value":
                attribute.t.CopyFrom(tensor_of(rounded(numpy_helper.to_array(attribute.t), self.target), "value"))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            zero = tensor_of(rounded(np.zeros(1, np.float32), self.target), "value")
            node.attribute.append(helper.make_attribute("value", zero))

    def run(self):
        graph = self.model.graph
        inside = []
        for node in graph.node:
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
                raise Failure(f'node "{node.name}" ({node.op_type}) has a graph of its own: models with control flow have '
                              "no variants", "unsupported")
            value = constant_value(node)
            if value is not None and node.output[0] not in self.results:
                self.constants[node.output[0]] = tensor_of(value, node.output[0])
                self.type[node.output[0]] = TensorProto.FLOAT
                self.made.append(self.constants[node.output[0]])
            else:
                inside.append(node)
                if schema_of(node, self.opsets) is None:  # of unknown type: a plug-in's are taken for FP32
                    for name in node.output:
                        self.type.setdefault(name, TensorProto.FLOAT)
        self.original = dict(self.type)
        for node in inside:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            self.convert(copy)
        for name in (value.name for value in graph.output):
            if name in self.alias:
                self.nodes.append(helper.make_node("Cast", [self.alias[name]], [name], name=f"{name}.cast",
                                                   to=TensorProto.FLOAT))
        wanted = {name for node in self.nodes for name in node.input} | self.results
        weights = [weight for weight in (*graph.initializer, *self.made) if weight.name in wanted]
        kept_inputs = [value for value in graph.input if value.name in wanted or value.name not in self.constants]
        for field, content in (("node", self.nodes), ("initializer", weights), ("input", kept_inputs)):
            copies = [type(entry).FromString(entry.SerializeToString()) for entry in content]
            graph.ClearField(field)
            getattr(graph, field).extend(copies)
        graph.ClearField("value_info")
        return self.model


def constant_value(node):
    """The FP32 values of a Constant node, or None."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    (attribute,) = node.attribute
    if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
        return numpy_helper.to_array(attribute.t)
    if attribute.name == "value_float":
        return np.array(attribute.f, np.float32)
    if attribute.name == "value_floats":
        return np.array(attribute.floats, np.float32)
    return None


def for_bf16(model):
    """The model in an opset in which its operators may be BF16."""
    opsets = opsets_of(model)
    text = TARGETS["bf16"][1]

    def admits(node, version):
        schema = schema_of(node, {**opsets, "": version})
        return schema is not None and schema.outputs and any(text in output.types for output in schema.outputs)

    if opsets[""] >= BF16_OPSET or all(admits(node, opsets[""]) or not admits(node, BF16_OPSET) for node in model.graph.node):
        return model
    return onnx.version_converter.convert_version(model, BF16_OPSET)


def with_casts(model, variant, keep=()):
    """Changes and returns `model`; `keep` names operators and nodes that stay FP32."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    if variant == "bf16":
        model = for_bf16(model)
    converter = Converter(model, variant, keep)
    model = converter.run()
    if converter.converted == 0:
        raise Failure(f"nothing in the model computes in FP32, so that there is nothing to write in {variant.upper()}")
    return model


def rounding_twin(model):
    """A BF16 variant as a model that computes in FP32 and rounds to BF16 after every operator.

    ONNX Runtime has no BF16 operators on the CPU; this one it runs.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    typed = onnx.shape_inference.infer_shapes(model).graph
    bf16 = {value.name for value in (*typed.value_info, *typed.output)
            if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    for weight in twin.graph.initializer:
        if weight.data_type == TensorProto.BFLOAT16:
            weight.CopyFrom(tensor_of(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    nodes = []
    for node in twin.graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.BFLOAT16:
                attribute.t.CopyFrom(tensor_of(numpy_helper.to_array(attribute.t).astype(np.float32), "value"))
        for i, name in enumerate(node.output):
            if name in bf16:
                node.output[i] = f"{name}.exact"
                nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.rounded"], to=TensorProto.BFLOAT16))
                nodes.append(helper.make_node("Cast", [f"{name}.rounded"], [name], to=TensorProto.FLOAT))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    twin.graph.ClearField("node")
    twin.graph.node.extend(copies)
    twin.graph.ClearField("value_info")
    return twin
