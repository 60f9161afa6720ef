"""Inference over gRPC."""

from ..client import expect_message
from ..fixtures import identity
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import CONTENTS, DATATYPES, JSON_SAMPLES, RAW_SAMPLES, tensor
from .http_inference import DIFFERENCE, MATRIX, SUM, TRANSPOSED, A, B

rpc = Group("inference", "grpc")
types = Group("tensor data", "grpc")


@rpc.check("grpc.infer", "gRPC: Inference", "ModelInfer answers the outputs", "add_sub")
def _(client):
    response = client.infer_grpc("add_sub", [A, B])
    expect_message(response, SUM)
    expect_message(response, DIFFERENCE)


@rpc.check("grpc.infer.contents", "gRPC: Inference", "tensors may be given by contents instead of raw ones", "add_sub")
def _(client):
    expect_message(client.infer_grpc("add_sub", [A, B], raw=False), SUM)


@rpc.check("grpc.infer.model_name", "gRPC: Inference", "model_name is the model's name", "add_sub")
def _(client):
    expect_equal(client.infer_grpc("add_sub", [A, B]).model_name, "add_sub", "model_name")


@rpc.check("grpc.infer.id", "gRPC: Inference", "an id that is given comes back", "add_sub")
def _(client):
    for name in ("42", "Größe", ""):
        found = client.infer_grpc("add_sub", [A, B], id=name).id
        expect(found == name or not name, f"the id {name!r}", found)


@rpc.check("grpc.infer.version", "gRPC: Inference", "a version that is given is the one that answers", "versions")
def _(client):
    for version in (1, 3):
        response = client.infer_grpc("versions", [tensor("INPUT0", "INT32", (1, 1), [10])], version=str(version))
        expect_message(response, tensor("OUTPUT0", "INT32", (1, 1), [10 + version]))


@rpc.check("grpc.infer.model_version", "gRPC: Inference", "model_version is the version that answered", "versions")
def _(client):
    expect_equal(client.infer_grpc("versions", [tensor("INPUT0", "INT32", (1, 1), [10])], version="1").model_version, "1", "model_version")


@rpc.check("grpc.infer.outputs.all", "gRPC: Inference", "without outputs, all are answered, in the order of the model's metadata", "add_sub",
           level=SHOULD)
def _(client):
    names = [output.name for output in client.infer_grpc("add_sub", [A, B]).outputs]
    expect_equal(names, ["SUM", "DIFFERENCE"], "the outputs")


@rpc.check("grpc.infer.outputs.one", "gRPC: Inference", "only the outputs that are asked for are answered", "add_sub")
def _(client):
    response = client.infer_grpc("add_sub", [A, B], outputs=[("DIFFERENCE", {})])
    expect_equal([output.name for output in response.outputs], ["DIFFERENCE"], "the outputs")
    expect_message(response, DIFFERENCE)


@rpc.check("grpc.infer.outputs.order", "gRPC: Inference", "in the order in which they are asked for; raw contents likewise", "add_sub",
           level=SHOULD)
def _(client):
    response = client.infer_grpc("add_sub", [A, B], outputs=[("DIFFERENCE", {}), ("SUM", {})])
    expect_equal([output.name for output in response.outputs], ["DIFFERENCE", "SUM"], "the outputs")
    expect_message(response, DIFFERENCE)
    expect_message(response, SUM)


@rpc.check("grpc.infer.inputs.order", "gRPC: Inference", "inputs are known by name, raw contents follow the order of the inputs", "add_sub")
def _(client):
    expect_message(client.infer_grpc("add_sub", [B, A]), DIFFERENCE)


@rpc.check("grpc.infer.raw", "gRPC: Inference", "to raw inputs the answer is raw: one content for every output", "add_sub", level=SHOULD)
def _(client):
    response = client.infer_grpc("add_sub", [A, B])
    expect(len(response.raw_output_contents) == 2, "2 raw contents", len(response.raw_output_contents))


@rpc.check("grpc.infer.batch", "gRPC: Inference", "shape and data are those of the whole batch", "add_sub")
def _(client):
    inputs = [tensor(given.name, "FP32", (3, 4), given.values * 3) for given in (A, B)]
    expect_message(client.infer_grpc("add_sub", inputs), tensor("SUM", "FP32", (3, 4), SUM.values * 3))


@rpc.check("grpc.infer.concurrent", "gRPC: Inference", "requests at the same time get their own answers", identity("INT32"))
def _(client):
    stub = client.rpc.stub("ModelInfer")
    calls = [(number, stub.future(client.infer_message(identity("INT32"), [tensor("INPUT0", "INT32", (1, 2), [number, -number])],
                                                       id=str(number)), timeout=client.timeout)) for number in range(64)]
    for number, call in calls:
        response = call.result()
        expect_equal(response.id, str(number), "the id")
        expect_message(response, tensor("OUTPUT0", "INT32", (1, 2), [number, -number]))


@rpc.check("grpc.infer.cancel", "gRPC: Inference", "a call that is cancelled does no harm to the next", "slow", "add_sub")
def _(client):
    steps = tensor("STEPS", "INT64", (1,), [200_000])
    call = client.rpc.stub("ModelInfer").future(client.infer_message("slow", [steps, tensor("START", "FP32", (1,), [0.0])]))
    call.cancel()
    expect_message(client.infer_grpc("add_sub", [A, B]), SUM)


@rpc.check("grpc.infer.compressed", "gRPC message compression", "a message in gzip is read", "add_sub", level=SHOULD)
def _(client):
    import grpc
    response = client.rpc.call("ModelInfer", client.infer_message("add_sub", [A, B]), compression=grpc.Compression.Gzip)
    expect_message(response, SUM)


@types.check("grpc.data.row_major", "gRPC: Tensor Data", "elements are in row-major order", "transpose")
def _(client):
    expect_message(client.infer_grpc("transpose", [MATRIX]), TRANSPOSED)
    expect_message(client.infer_grpc("transpose", [MATRIX], raw=False), TRANSPOSED)


@types.check("grpc.data.dynamic", "gRPC: Tensor Data", "sizes that metadata gives as -1 are free", "row_sum")
def _(client):
    given = tensor("MATRIX", "FP32", (3, 2), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    expect_message(client.infer_grpc("row_sum", [given]), tensor("SUMS", "FP32", (3,), [1.0, 5.0, 9.0]))


@types.check("grpc.data.large", "gRPC: Tensor Data", "a tensor of 8 MiB goes through", identity("FP32"), level=SHOULD)
def _(client):
    given = tensor("INPUT0", "FP32", (1, 2 << 20), [float(i) for i in range(2 << 20)])
    expect_message(client.infer_grpc(identity("FP32"), [given]), tensor("OUTPUT0", "FP32", given.shape, given.values))


def round_trip(datatype, raw):
    def run(client):
        values = (RAW_SAMPLES if raw else JSON_SAMPLES)[datatype]
        if datatype == "BYTES" and not raw:
            values = RAW_SAMPLES[datatype]
        given = tensor("INPUT0", datatype, (2, 3), values)
        expect_message(client.infer_grpc(identity(datatype), [given], raw=raw), tensor("OUTPUT0", datatype, given.shape, given.values))
    return run


for name in DATATYPES:
    types.check(f"grpc.datatype.raw.{name}", "gRPC: Tensor Data Types", f"{name} by raw contents: the bytes come back as they were",
                identity(name), run=round_trip(name, True))
    if name in CONTENTS:
        types.check(f"grpc.datatype.contents.{name}", "gRPC: Tensor Data Types", f"{name} by {CONTENTS[name]}: every value comes back",
                    identity(name), run=round_trip(name, False))
