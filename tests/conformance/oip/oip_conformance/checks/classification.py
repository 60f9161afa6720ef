"""The extensions classification and parameters."""

from ..client import expect_message, expect_output, infer_path, infer_request, ok, output_of, read_binary, refused
from ..fixtures import CLASSES
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import tensor, unpack
from .http_inference import SUM, A, B

http = Group("classification", "http", "classification")
rpc = Group("classification", "grpc", "classification")
parameters = Group("parameters", "http", "parameters")
rpc_parameters = Group("parameters", "grpc", "parameters")
SECTION = "Classification Extension"
VALUES = tensor("VALUES", "FP32", (1, 5), [1.0, 5.0, 10.0, 4.0, 0.5])
BATCH = tensor("VALUES", "FP32", (2, 5), [1.0, 5.0, 10.0, 4.0, 0.5, 9.0, 8.0, 7.0, 6.0, 5.0])


def wanted(classes, **more):
    return [{"name": "SCORES", "parameters": {"classification": classes, **more}}]


def expect_classes(texts, pairs):
    """VALUE:INDEX:LABEL for each pair of value and index; a value may be written in any way."""
    expect(len(texts) == len(pairs), f"{len(pairs)} classes", texts)
    for text, (value, index) in zip(texts, pairs):
        parts = text.split(":")
        expect(len(parts) == 3 and parts[1:] == [str(index), CLASSES[index]], f"{value}:{index}:{CLASSES[index]}", text)
        try:
            number = float(parts[0])
        except ValueError:
            number = None
        expect(number == value, f"the value {value}", parts[0])


def classes_of(answer, shape):
    output = output_of(answer, "SCORES")
    expect_equal(output.get("datatype"), "BYTES", "the datatype")
    expect_equal(output.get("shape"), shape, "the shape")
    return output.get("data")


@http.check("http.classification", SECTION, "the best so many classes, best first, as VALUE:INDEX:LABEL in BYTES [batch, count]", "classify")
def _(client):
    expect_classes(classes_of(client.infer("classify", [VALUES], outputs=wanted(3)), [1, 3]), [(10.0, 2), (5.0, 1), (4.0, 3)])


@http.check("http.classification.one", SECTION, "one class", "classify")
def _(client):
    expect_classes(classes_of(client.infer("classify", [VALUES], outputs=wanted(1)), [1, 1]), [(10.0, 2)])


@http.check("http.classification.batch", SECTION, "for each item of a batch", "classify")
def _(client):
    found = classes_of(client.infer("classify", [BATCH], outputs=wanted(2)), [2, 2])
    expect_classes(found, [(10.0, 2), (5.0, 1), (9.0, 0), (8.0, 1)])


@http.check("http.classification.binary", SECTION, "also as binary data", "classify")
def _(client):
    answer, blobs = read_binary(client.post(infer_path("classify"), infer_request([VALUES], outputs=wanted(2, binary_data=True))))
    expect_equal(output_of(answer, "SCORES").get("datatype"), "BYTES", "the datatype")
    expect_classes([text.decode() for text in unpack("BYTES", blobs.get("SCORES", b""))], [(10.0, 2), (5.0, 1)])


@http.check("http.classification.unlabelled", SECTION, "without labels of the model: VALUE:INDEX", "add_sub")
def _(client):
    outputs = [{"name": "SUM", "parameters": {"classification": 1}}]
    (found,) = output_of(client.infer("add_sub", [A, B], outputs=outputs), "SUM")["data"]
    expect(found.split(":")[1:] == ["0"] and float(found.split(":")[0]) == 11.0, "11.000000:0", found)


@http.check("http.classification.many", SECTION, "more classes than there are give all there are, or an error", "classify", level=SHOULD)
def _(client):
    response = client.post(infer_path("classify"), infer_request([VALUES], outputs=wanted(9)))
    if response.status != 200:
        refused(response)
    else:
        expect(len(output_of(ok(response).json(), "SCORES")["data"]) == 5, "5 classes", response.json())


@http.check("http.classification.error", SECTION, "a count that is no positive integer is refused", "classify", level=SHOULD)
def _(client):
    for count in (-1, "two"):
        refused(client.post(infer_path("classify"), infer_request([VALUES], outputs=wanted(count))))


@rpc.check("grpc.classification", SECTION, "the same over gRPC by an int64 parameter of the output", "classify")
def _(client):
    response = client.infer_grpc("classify", [VALUES], outputs=[("SCORES", {"classification": 2})])
    expect_equal(response.outputs[0].datatype, "BYTES", "the datatype")
    expect_equal(list(response.outputs[0].shape), [1, 2], "the shape")
    raw = response.raw_output_contents[0] if response.raw_output_contents else None
    texts = unpack("BYTES", raw) if raw is not None else list(response.outputs[0].contents.bytes_contents)
    expect_classes([text.decode() for text in texts], [(10.0, 2), (5.0, 1)])


CUSTOM = {"my_number": 42, "my_text": "x", "my_flag": True, "my_fraction": 0.5}


@parameters.check("http.parameters", "Parameters Extension", "parameters of one's own are taken, and change nothing that is not theirs", "add_sub")
def _(client):
    expect_output(client.infer("add_sub", [A, B], parameters=CUSTOM), SUM)


@parameters.check("http.parameters.tensors", "Parameters", "also those of inputs and of outputs", "add_sub")
def _(client):
    request = infer_request([A, B], outputs=[{"name": "SUM", "parameters": {"my_number": 1}}])
    request["inputs"][0]["parameters"] = {"my_text": "x"}
    expect_output(ok(client.post(infer_path("add_sub"), request)).json(), SUM)


@parameters.check("http.parameters.priority", "Schedule Policy Extension", "priority and timeout are taken", "add_sub")
def _(client):
    expect_output(client.infer("add_sub", [A, B], parameters={"priority": 1, "timeout": 30_000_000}), SUM)


@rpc_parameters.check("grpc.parameters", "Parameters Extension", "parameters of one's own are taken over gRPC", "add_sub")
def _(client):
    expect_message(client.infer_grpc("add_sub", [A, B], parameters=CUSTOM), SUM)
