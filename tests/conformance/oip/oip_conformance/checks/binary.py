"""The extension binary_tensor_data: tensors after the JSON of a body."""

import json

from ..client import (CLIENT_ERRORS, binary_request, expect_binary, expect_output, expect_raw, infer_path, infer_request, output_of, read_binary,
                      refused)
from ..fixtures import identity
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import DATATYPES, RAW_SAMPLES, tensor
from ..wire import JSON_LENGTH
from .http_inference import DIFFERENCE, MATRIX, SUM, TRANSPOSED, A, B

http = Group("binary data", "http", "binary_tensor_data")
SECTION = "Binary Tensor Request"
RAW_SECTION = "Raw Binary Request"


def round_trip(datatype):
    def run(client):
        given = tensor("INPUT0", datatype, (2, 3), RAW_SAMPLES[datatype])
        answer, blobs = client.infer_binary(identity(datatype), [given], parameters={"binary_data_output": True})
        expect_binary(answer, blobs, tensor("OUTPUT0", datatype, given.shape, given.values))
    return run


for name in DATATYPES:
    http.check(f"http.binary.datatype.{name}", SECTION, f"{name} as binary data: the bytes come back as they were", identity(name),
               run=round_trip(name))


@http.check("http.binary.inputs", SECTION, "binary inputs are read in the order of the JSON", "add_sub")
def _(client):
    for inputs in ([A, B], [B, A]):
        answer, blobs = client.infer_binary("add_sub", inputs, parameters={"binary_data_output": True})
        expect_binary(answer, blobs, DIFFERENCE)


@http.check("http.binary.output", SECTION, "binary_data: true gives that output as binary data", "add_sub")
def _(client):
    answer, blobs = client.infer_binary("add_sub", [A, B], outputs=[{"name": "SUM", "parameters": {"binary_data": True}}])
    expect_binary(answer, blobs, SUM)


@http.check("http.binary.output.default", SECTION, "without it, outputs are JSON even if inputs are binary", "add_sub")
def _(client):
    answer = client.post_binary("add_sub", [A, B]).json()
    expect_output(answer, SUM)


@http.check("http.binary.output.all", SECTION, "binary_data_output: true gives all outputs as binary data, also when none is named", "add_sub")
def _(client):
    answer, blobs = client.infer_binary("add_sub", [A, B], parameters={"binary_data_output": True})
    expect_binary(answer, blobs, SUM)
    expect_binary(answer, blobs, DIFFERENCE)


@http.check("http.binary.output.json_input", SECTION, "also when the inputs are JSON", "add_sub")
def _(client):
    request = infer_request([A, B], parameters={"binary_data_output": True})
    answer, blobs = read_binary(client.post(infer_path("add_sub"), request))
    expect_binary(answer, blobs, SUM)


@http.check("http.binary.output.override", SECTION, "binary_data of an output comes before binary_data_output", "add_sub")
def _(client):
    answer, blobs = client.infer_binary("add_sub", [A, B], parameters={"binary_data_output": True},
                                        outputs=[{"name": "SUM", "parameters": {"binary_data": False}}, {"name": "DIFFERENCE"}])
    expect_output(answer, SUM)
    expect_binary(answer, blobs, DIFFERENCE)


@http.check("http.binary.mixed.inputs", SECTION, "one input may be binary and another JSON", "add_sub")
def _(client):
    request, _ = binary_request([B])
    head = infer_request([A, B], parameters={"binary_data_output": True})
    del head["inputs"][1]["data"]
    head["inputs"][1]["parameters"] = {"binary_data_size": len(B.raw)}
    text = json.dumps(head).encode()
    answer, blobs = read_binary(client.post(infer_path("add_sub"), text + B.raw,
                                            headers=[("Inference-Header-Content-Length", len(text))]))
    expect_binary(answer, blobs, SUM)


@http.check("http.binary.order", SECTION, "binary outputs lie in the order of the JSON", "add_sub")
def _(client):
    wanted = [{"name": name, "parameters": {"binary_data": True}} for name in ("DIFFERENCE", "SUM")]
    answer, blobs = client.infer_binary("add_sub", [A, B], outputs=wanted)
    expect_binary(answer, blobs, DIFFERENCE)
    expect_binary(answer, blobs, SUM)


@http.check("http.binary.header", SECTION, "Inference-Header-Content-Length is the length of the JSON; none is needed without binary data",
            "add_sub")
def _(client):
    response = client.post_binary("add_sub", [A, B], parameters={"binary_data_output": True})
    read_binary(response)
    length = client.post(infer_path("add_sub"), infer_request([A, B])).header(JSON_LENGTH)
    expect(length is None or length.isdigit(), "a length or no header", length)


@http.check("http.binary.content_type", SECTION, "a response with binary data says application/octet-stream", "add_sub", level=SHOULD)
def _(client):
    kind = client.post_binary("add_sub", [A, B], parameters={"binary_data_output": True}).header("content-type")
    expect_equal(kind, "application/octet-stream", "the Content-Type")


@http.check("http.binary.batch", SECTION, "the bytes are those of the whole batch", "add_sub")
def _(client):
    inputs = [tensor(given.name, "FP32", (3, 4), given.values * 3) for given in (A, B)]
    answer, blobs = client.infer_binary("add_sub", inputs, parameters={"binary_data_output": True})
    expect_binary(answer, blobs, tensor("SUM", "FP32", (3, 4), SUM.values * 3))


@http.check("http.binary.large", SECTION, "a tensor of 4 MiB goes through", identity("FP32"))
def _(client):
    given = tensor("INPUT0", "FP32", (1, 1 << 20), [float(i) for i in range(1 << 20)])
    answer, blobs = client.infer_binary(identity("FP32"), [given], parameters={"binary_data_output": True})
    expect_binary(answer, blobs, tensor("OUTPUT0", "FP32", given.shape, given.values))


@http.check("http.binary.id", SECTION, "an id comes back as well", "add_sub")
def _(client):
    answer, _ = client.infer_binary("add_sub", [A, B], id="binary 1", parameters={"binary_data_output": True})
    expect_equal(answer.get("id"), "binary 1", "the id")


BAD = {}  # identifier: what sends the request


def bad(identifier, requirement, edit, level="must"):
    """A check that a request so changed is refused: `edit` takes object and bytes, and answers object, bytes, length or None."""
    def send(client):
        body, length = binary_request([A, B], parameters={"binary_data_output": True})
        request, data, stated = edit(json.loads(body[:length]), body[length:])
        text = json.dumps(request).encode()
        return client.post(infer_path("add_sub"), text + data,
                           headers=[("Inference-Header-Content-Length", len(text) if stated is None else stated)])

    def run(client):
        refused(send(client))
        answer, blobs = client.infer_binary("add_sub", [A, B], parameters={"binary_data_output": True})
        expect_binary(answer, blobs, SUM)
    BAD[identifier] = send
    http.check(f"http.binary.error.{identifier}", SECTION, requirement, "add_sub", level=level, run=run)


def sized(request, size):
    request["inputs"][0]["parameters"]["binary_data_size"] = size
    return request


bad("size.small", "a binary_data_size below what the shape needs is refused", lambda request, data: (sized(request, 12), data, None))
bad("size.large", "one that reaches past the body is refused", lambda request, data: (sized(request, 1 << 40), data, None))
bad("size.negative", "a negative one is refused", lambda request, data: (sized(request, -16), data, None))
bad("size.type", "one that is no integer is refused", lambda request, data: (sized(request, "16"), data, None))
bad("short", "a body that ends before its tensors do is refused", lambda request, data: (request, data[:-1], None))
bad("long", "bytes that belong to no tensor are refused", lambda request, data: (request, data + b"\0", None), level=SHOULD)
bad("header.large", "a JSON length above the body's is refused", lambda request, data: (request, data, 1 << 30))
bad("header.text", "a JSON length that is no number is refused", lambda request, data: (request, data, "many"))
bad("header.negative", "a negative JSON length is refused", lambda request, data: (request, data, -1))
bad("header.short", "a JSON length that cuts the JSON is refused", lambda request, data: (request, data, 40))


@http.check("http.binary.error.status", SECTION, "what is wrong with a request is told by a status of 400 to 499", "add_sub", level=SHOULD)
def _(client):
    found = {identifier: send(client).status for identifier, send in BAD.items()}
    wrong = {identifier: status for identifier, status in found.items() if status not in CLIENT_ERRORS}
    expect(not wrong, "400 to 499", wrong)


@http.check("http.binary.error.bytes", SECTION, "a BYTES element whose length reaches past its tensor is refused", identity("BYTES"))
def _(client):
    lying = tensor("INPUT0", "BYTES", (1, 1), [b"abcd"])
    body, length = binary_request([lying])
    for size in (b"\x05\0\0\0", b"\xff\xff\xff\xff", b"\x03\0\0\0"):
        refused(client.post(infer_path(identity("BYTES")), body[:length] + size + body[length + 4:],
                            headers=[("Inference-Header-Content-Length", length)]))


@http.check("http.binary.error.bytes.count", SECTION, "more or fewer BYTES elements than the shape has are refused", identity("BYTES"))
def _(client):
    for shape in ((1, 3), (1, 1)):
        refused(client.post_binary(identity("BYTES"), [tensor("INPUT0", "BYTES", shape, [b"a", b"b"])]))


def raw_infer(client, model, data):
    return client.post(infer_path(model), data, headers=[("Content-Type", "application/octet-stream"),
                                                         ("Inference-Header-Content-Length", 0)])


@http.check("http.raw", RAW_SECTION, "a body without JSON is the only input; the size that varies follows from its length", identity("FP32"))
def _(client):
    for size in (1, 16):
        given = tensor("INPUT0", "FP32", (1, size), [float(i) for i in range(size)])
        answer, blobs = read_binary(raw_infer(client, identity("FP32"), given.raw))
        expect_binary(answer, blobs, tensor("OUTPUT0", "FP32", given.shape, given.values))


@http.check("http.raw.fixed", RAW_SECTION, "also where all sizes are fixed, and without batches", "transpose")
def _(client):
    answer, blobs = read_binary(raw_infer(client, "transpose", MATRIX.raw))
    expect_binary(answer, blobs, TRANSPOSED)


@http.check("http.raw.outputs", RAW_SECTION, "its outputs are binary data", "classify")
def _(client):
    given = tensor("VALUES", "FP32", (1, 5), [1.0, 5.0, 10.0, 4.0, 0.0])
    answer, blobs = read_binary(raw_infer(client, "classify", given.raw))
    expect("SCORES" in blobs, "SCORES as binary data", output_of(answer, "SCORES"))
    expect_raw(blobs["SCORES"], tensor("SCORES", "FP32", (1, 5), given.values))


@http.check("http.raw.error.inputs", RAW_SECTION, "a model of two inputs takes no such request", "add_sub")
def _(client):
    refused(raw_infer(client, "add_sub", A.raw))


@http.check("http.raw.error.size", RAW_SECTION, "a length that is no whole number of elements is refused", identity("FP32"), "transpose")
def _(client):
    refused(raw_infer(client, identity("FP32"), b"\0" * 7))
    refused(raw_infer(client, "transpose", b"\0" * 20))
