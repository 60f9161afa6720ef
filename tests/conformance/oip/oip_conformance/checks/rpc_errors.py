"""What a server has to refuse over gRPC, and with which status."""

from ..client import expect_message
from ..fixtures import identity
from ..registry import SHOULD, Failed, Group, expect, shown
from ..tensors import tensor
from .http_inference import SUM, A, B

rpc = Group("errors", "grpc")
SECTION = "gRPC: Inference"
INVALID = ("INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION", "UNAVAILABLE")
ERRORS = (*INVALID, "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED")  # what the specification demands: another status than OK
BAD = {}  # identifier: what makes the request


def bad(identifier, requirement, edit, model="add_sub", inputs=(A, B), codes=ERRORS, level="must", raw=True, section=SECTION):
    """A check that a message so changed is refused, and that the server goes on afterwards."""
    def make(client):
        request = client.infer_message(model, inputs, raw=raw)
        edit(request)
        return request

    def run(client):
        client.rpc.refused("ModelInfer", make(client), codes)
        if model == "add_sub":
            expect_message(client.infer_grpc("add_sub", [A, B]), SUM)
    BAD[identifier] = make
    rpc.check(f"grpc.error.{identifier}", section, requirement, model, level=level, run=run)


def pop_input(request):
    request.inputs.pop()
    request.raw_input_contents.pop()


bad("model", "an unknown model is refused", lambda request: setattr(request, "model_name", "no_such_model"))
bad("model.status", "with NOT_FOUND", lambda request: setattr(request, "model_name", "no_such_model"), codes=("NOT_FOUND",), level=SHOULD)
bad("version", "an unknown version is refused", lambda request: setattr(request, "model_version", "77"))
bad("version.text", "a version that is no number is refused", lambda request: setattr(request, "model_version", "latest?"))
bad("input.missing", "a missing input is refused", pop_input)
bad("input.unknown", "an input that the model does not have is refused", lambda request: setattr(request.inputs[0], "name", "NONE"))
bad("input.twice", "an input given twice is refused", lambda request: setattr(request.inputs[0], "name", "INPUT1"))
bad("datatype", "another datatype than the model's is refused", lambda request: setattr(request.inputs[0], "datatype", "INT32"))
bad("datatype.unknown", "a datatype that the protocol does not have is refused",
    lambda request: setattr(request.inputs[0], "datatype", "FLOAT"), section="gRPC: Tensor Data Types")
bad("shape", "a shape that the model does not take is refused", lambda request: request.inputs[0].shape.append(2))
bad("shape.negative", "a negative size is refused", lambda request: request.inputs[0].shape.__setitem__(0, -1))
bad("shape.huge", "a shape whose size overflows is refused", lambda request: request.inputs[0].shape.__setitem__(0, 1 << 62))
bad("raw.short", "raw contents shorter than shape and datatype say are refused",
    lambda request: request.raw_input_contents.__setitem__(0, A.raw[:-4]))
bad("raw.long", "and longer ones", lambda request: request.raw_input_contents.__setitem__(0, A.raw + b"\0\0\0\0"))
bad("raw.count", "fewer raw contents than inputs are refused", lambda request: request.raw_input_contents.pop())
bad("raw.extra", "more raw contents than inputs are refused", lambda request: request.raw_input_contents.append(b"\0\0\0\0"))
bad("raw.and_contents", "contents beside raw contents are refused", lambda request: request.inputs[0].contents.fp32_contents.extend(A.values))
bad("contents.short", "fewer contents than the shape has are refused", lambda request: request.inputs[0].contents.fp32_contents.pop(),
    raw=False)
bad("contents.other", "contents in the field of another datatype are refused",
    lambda request: (request.inputs[0].contents.Clear(), request.inputs[0].contents.int_contents.extend([1, 2, 3, 4])), raw=False)
bad("outputs.unknown", "an output that the model does not have is refused", lambda request: request.outputs.add(name="NONE"))
bad("bytes", "a BYTES element whose length reaches past its tensor is refused",
    lambda request: request.raw_input_contents.__setitem__(0, b"\xff\xff\xff\x7fabcd"), model=identity("BYTES"),
    inputs=(tensor("INPUT0", "BYTES", (1, 1), [b"abcd"]),))


@rpc.check("grpc.error.status", SECTION, "what is wrong with a request is told by INVALID_ARGUMENT, NOT_FOUND or the like", "add_sub",
           identity("BYTES"), level=SHOULD)
def _(client):
    wrong = {}
    for identifier, make in BAD.items():
        try:
            client.rpc.refused("ModelInfer", make(client), INVALID)
        except Failed as failure:
            wrong[identifier] = failure.found
    expect(not wrong, f"one of {', '.join(INVALID)}", wrong)


@rpc.check("grpc.error.message", "gRPC", "bytes that are no message of the protocol are refused", level=SHOULD)
def _(client):
    import grpc
    try:
        client.rpc.raw("ModelInfer")(b"\xff" * 40, timeout=client.timeout)
    except grpc.RpcError as error:
        if error.code().name in ("INTERNAL", "INVALID_ARGUMENT", "UNKNOWN"):
            return
        raise Failed("INTERNAL or INVALID_ARGUMENT", f"{error.code().name}: {shown(error.details())}") from None
    raise Failed("an error", "an answer")


@rpc.check("grpc.error.method", "gRPC", "a method that the service does not have is UNIMPLEMENTED")
def _(client):
    import grpc
    try:
        client.rpc.raw("NoSuchMethod")(b"", timeout=client.timeout)
    except grpc.RpcError as error:
        if error.code().name == "UNIMPLEMENTED":
            return
        raise Failed("UNIMPLEMENTED", f"{error.code().name}: {shown(error.details())}") from None
    raise Failed("UNIMPLEMENTED", "an answer")
