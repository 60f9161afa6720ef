"""What a server has to refuse over HTTP, and how."""

import json

from ..client import CLIENT_ERRORS, ERRORS, expect_output, infer_path, infer_request, refused
from ..fixtures import identity
from ..registry import SHOULD, Group, expect
from ..tensors import tensor
from .http_inference import MATRIX, SUM, TRANSPOSED, A, B

http = Group("errors", "http")
SECTION = "Inference Response JSON Error Object"
REQUEST = infer_request([A, B])


def changed(**fields):
    """The request with the first input changed; None removes a name."""
    request = json.loads(json.dumps(REQUEST))
    for name, value in fields.items():
        request["inputs"][0].pop(name) if value is None else request["inputs"][0].update({name: value})
    return request


BAD = []  # (identifier, model, body) of every request that is refused


def bad(identifier, requirement, body, model="add_sub", section=SECTION, statuses=ERRORS, level="must"):
    """A check that this request is refused, and that the server goes on afterwards."""
    BAD.append((identifier, model, body))

    def run(client):
        refused(client.post(infer_path(model), body), statuses)
        if model == "add_sub":
            expect_output(client.infer("add_sub", [A, B]), SUM)
        elif model == "transpose":
            expect_output(client.infer("transpose", [MATRIX]), TRANSPOSED)
    http.check(f"http.error.{identifier}", section, requirement, *([model] if model != "no_such_model" else []), level=level, run=run)


bad("model", "an unknown model is refused", REQUEST, model="no_such_model")
bad("model.status", "with 404", REQUEST, model="no_such_model", statuses=(404,), level=SHOULD)
bad("json", "a body that is no JSON is refused", b'{"inputs": [')
bad("json.status", "with 400", b'{"inputs": [', statuses=(400,), level=SHOULD)
bad("json.type", "a body that is no object is refused", [1, 2, 3])
bad("json.empty", "an empty body is refused", b"")
bad("json.trailing", "something after the object is refused", json.dumps(REQUEST).encode() + b"{}", level=SHOULD)
bad("json.utf8", "bytes that are not UTF-8 are refused", json.dumps(REQUEST | {"id": "x"}).encode().replace(b'"x"', b'"\xff\xfe"'))
bad("json.deep", "nesting of 100,000 levels is refused, and does no harm", b"[" * 100_000)
bad("inputs.missing", "a request without inputs is refused", {"id": "1"})
bad("inputs.type", "inputs that are no list are refused", {"inputs": {"INPUT0": [1]}})
bad("inputs.none", "an empty list of inputs is refused where the model needs some", {"inputs": []})
bad("input.missing", "a missing input is refused", infer_request([A]))
bad("input.unknown", "an input that the model does not have is refused", changed(name="NO_SUCH_INPUT"))
bad("input.twice", "an input given twice is refused", infer_request([A, A]))
bad("name.missing", "an input without a name is refused", changed(name=None))
bad("shape.missing", "an input without a shape is refused", changed(shape=None))
bad("shape.type", "a shape that is no list of integers is refused", changed(shape=["1", 4]), level=SHOULD)
bad("shape.negative", "a negative size is refused", changed(shape=[1, -4]))
bad("shape.huge", "a shape whose size overflows is refused", changed(shape=[1 << 62, 4]))
bad("shape.dims", "a shape that the model does not take is refused", changed(shape=[1, 2, 2]))
bad("shape.fixed", "another size than the model's fixed one is refused", infer_request([tensor("MATRIX", "INT32", (3, 2), [1] * 6)]),
    model="transpose")
bad("datatype.missing", "an input without a datatype is refused", changed(datatype=None))
bad("datatype.unknown", "a datatype that the protocol does not have is refused", changed(datatype="FLOAT32"), section="Tensor Data Types")
bad("datatype.case", "names of datatypes are case-sensitive", changed(datatype="fp32"), section="Tensor Data Types")
bad("datatype.other", "another datatype than the model's is refused", changed(datatype="INT32", data=[1, 2, 3, 4]))
bad("data.missing", "an input without data is refused", changed(data=None), section="Tensor Data")
bad("data.short", "fewer elements than the shape has are refused", changed(data=[1.0, 2.0, 3.0]), section="Tensor Data")
bad("data.long", "more elements than the shape has are refused", changed(data=[1.0] * 5), section="Tensor Data")
bad("data.type", "elements of another JSON type are refused", changed(data=["1", "2", "3", "4"]), section="Tensor Data", level=SHOULD)
bad("data.null", "null is no element", changed(data=[1.0, None, 3.0, 4.0]), section="Tensor Data")
bad("outputs.unknown", "an output that the model does not have is refused", REQUEST | {"outputs": [{"name": "NO_SUCH_OUTPUT"}]},
    section="Request Output")
bad("outputs.type", "outputs that are no list of objects are refused", REQUEST | {"outputs": ["SUM"]}, section="Request Output")
bad("parameters.type", "parameters that are no object are refused", REQUEST | {"parameters": [1]}, section="Parameters")


@http.check("http.error.status", SECTION, "what is wrong with a request is told by a status of 400 to 499", "add_sub", "transpose", level=SHOULD)
def _(client):
    found = {identifier: client.post(infer_path(model), body).status for identifier, model, body in BAD}
    wrong = {identifier: status for identifier, status in found.items() if status not in CLIENT_ERRORS}
    expect(not wrong, "400 to 499", wrong)


@http.check("http.error.version", SECTION, "an unknown version is refused", "versions")
def _(client):
    refused(client.post(infer_path("versions", "77"), infer_request([tensor("INPUT0", "INT32", (1, 1), [0])])))


@http.check("http.error.integer.range", "Tensor Data", "a number that the datatype cannot hold is refused", identity("INT8"))
def _(client):
    for value in (128, -129, 1 << 70):
        request = infer_request([tensor("INPUT0", "INT8", (1, 1), [0])])
        request["inputs"][0]["data"] = [value]
        refused(client.post(infer_path(identity("INT8")), request))


@http.check("http.error.integer.fraction", "Tensor Data", "a fraction is no integer", identity("INT32"), level=SHOULD)
def _(client):
    request = infer_request([tensor("INPUT0", "INT32", (1, 1), [0])])
    request["inputs"][0]["data"] = [1.5]
    refused(client.post(infer_path(identity("INT32")), request))


@http.check("http.error.batch", "Inference", "a batch above the model's maximum is refused", identity("INT32"), level=SHOULD)
def _(client):
    refused(client.post(infer_path(identity("INT32")), infer_request([tensor("INPUT0", "INT32", (9, 1), [0] * 9)])))


@http.check("http.error.path", "HTTP/REST", "a path that is not of the protocol is an HTTP error", level=SHOULD)
def _(client):
    for path in ("/v2/nothing", "/v2/models/add_sub/nothing", "/v3"):
        expect(client.get(path).status in (400, 404), "status 404", client.get(path).status)


@http.check("http.error.method", "HTTP/REST", "a method that a path does not take is an HTTP error", level=SHOULD)
def _(client):
    for method, path in (("GET", "/v2/models/add_sub/infer"), ("POST", "/v2/health/live"), ("DELETE", "/v2")):
        found = client.request(method, path).status
        expect(found in (400, 404, 405), "status 405, 404 or 400", f"{found} for {method} {path}")
