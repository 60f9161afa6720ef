"""Inference over HTTP with tensors as JSON."""

from ..client import expect_output, flat, infer_path, infer_request, ok, output_of
from ..fixtures import identity
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import DATATYPES, JSON_SAMPLES, RAW_ONLY, tensor

http = Group("inference", "http")
types = Group("tensor data", "http")

A = tensor("INPUT0", "FP32", (1, 4), [1.0, 2.0, 3.0, 4.0])
B = tensor("INPUT1", "FP32", (1, 4), [10.0, 0.5, -3.0, 0.25])
SUM = tensor("SUM", "FP32", (1, 4), [11.0, 2.5, 0.0, 4.25])
DIFFERENCE = tensor("DIFFERENCE", "FP32", (1, 4), [-9.0, 1.5, 6.0, 3.75])
MATRIX = tensor("MATRIX", "INT32", (2, 3), [1, 2, 3, 4, 5, 6])
TRANSPOSED = tensor("TRANSPOSED", "INT32", (3, 2), [1, 4, 2, 5, 3, 6])


@http.check("http.infer", "Inference", "POST v2/models/NAME/infer answers the outputs", "add_sub")
def _(client):
    answer = client.infer("add_sub", [A, B])
    expect_output(answer, SUM)
    expect_output(answer, DIFFERENCE)


@http.check("http.infer.content_type", "Inference", "a response of JSON says Content-Type: application/json", "add_sub", level=SHOULD)
def _(client):
    kind = ok(client.post(infer_path("add_sub"), infer_request([A, B]))).header("content-type") or "none"
    expect(kind.split(";")[0].strip() == "application/json", "application/json", kind)


@http.check("http.infer.model_name", "Inference Response JSON Object", "model_name is the model's name", "add_sub")
def _(client):
    expect_equal(client.infer("add_sub", [A, B]).get("model_name"), "add_sub", "model_name")


@http.check("http.infer.model_version", "Inference Response JSON Object", "model_version, if given, is the version as a string", "versions")
def _(client):
    answer = client.infer("versions", [tensor("INPUT0", "INT32", (1, 1), [0])], version="1")
    expect_equal(answer.get("model_version", "1"), "1", "model_version")


@http.check("http.infer.types", "Inference Response JSON Object", "optional names have values of their types, or are left out: null is neither",
            "add_sub")
def _(client):
    answer = client.infer("add_sub", [A, B])
    for where in (answer, *answer["outputs"]):
        for name, kind in (("model_version", str), ("id", str), ("parameters", dict)):
            expect(name not in where or isinstance(where[name], kind), f"{name} as {kind.__name__}, or none", where.get(name))


@http.check("http.infer.id", "Inference Request JSON Object", "an id that is given comes back", "add_sub")
def _(client):
    for name in ("42", "Größe \"x\" \\ /", "a" * 200):
        expect_equal(client.infer("add_sub", [A, B], id=name).get("id"), name, "the id")


@http.check("http.infer.no_id", "Inference Response JSON Object", "without one, none is made up that is not a string", "add_sub")
def _(client):
    found = client.infer("add_sub", [A, B]).get("id", "")
    expect(isinstance(found, str), "a string or nothing", found)


@http.check("http.infer.version", "Inference", "a version in the path is the one that answers", "versions")
def _(client):
    given = tensor("INPUT0", "INT32", (1, 2), [10, 20])
    for version in (1, 3):
        expect_output(client.infer("versions", [given], version=str(version)),
                      tensor("OUTPUT0", "INT32", (1, 2), [10 + version, 20 + version]))


@http.check("http.infer.version.default", "Inference", "without a version the server chooses one, and says which if it says any", "versions")
def _(client):
    answer = client.infer("versions", [tensor("INPUT0", "INT32", (1, 1), [10])])
    data = flat(output_of(answer, "OUTPUT0").get("data"), "data as a list")
    expect(data in ([11], [13]), "the answer of version 1 or 3", data)
    expect(answer.get("model_version") in (None, str(data[0] - 10)), f"model_version {data[0] - 10!s}", answer.get("model_version"))


@http.check("http.infer.outputs.all", "Inference Request JSON Object", "without outputs, all are answered", "add_sub")
def _(client):
    names = [output.get("name") for output in client.infer("add_sub", [A, B])["outputs"]]
    expect(sorted(names) == ["DIFFERENCE", "SUM"], ["SUM", "DIFFERENCE"], names)


@http.check("http.infer.outputs.all.order", "Inference Response JSON Object", "in the order of the model's metadata", "add_sub", level=SHOULD)
def _(client):
    names = [output.get("name") for output in client.infer("add_sub", [A, B])["outputs"]]
    expect_equal(names, ["SUM", "DIFFERENCE"], "the outputs")


@http.check("http.infer.outputs.one", "Request Output", "only the outputs that are asked for are answered", "add_sub")
def _(client):
    answer = client.infer("add_sub", [A, B], outputs=[{"name": "DIFFERENCE"}])
    expect_equal([output.get("name") for output in answer["outputs"]], ["DIFFERENCE"], "the outputs")
    expect_output(answer, DIFFERENCE)


@http.check("http.infer.outputs.order", "Request Output", "in the order in which they are asked for", "add_sub", level=SHOULD)
def _(client):
    answer = client.infer("add_sub", [A, B], outputs=[{"name": "DIFFERENCE"}, {"name": "SUM"}])
    expect_equal([output.get("name") for output in answer["outputs"]], ["DIFFERENCE", "SUM"], "the outputs")
    expect_output(answer, SUM)
    expect_output(answer, DIFFERENCE)


@http.check("http.infer.inputs.order", "Request Input", "inputs are known by name, not by place", "add_sub")
def _(client):
    expect_output(client.infer("add_sub", [B, A]), DIFFERENCE)


@http.check("http.infer.batch", "Request Input", "shape and data are those of the whole batch", "add_sub")
def _(client):
    inputs = [tensor(given.name, "FP32", (3, 4), given.values * 3) for given in (A, B)]
    expect_output(client.infer("add_sub", inputs), tensor("SUM", "FP32", (3, 4), SUM.values * 3))


@http.check("http.infer.parameters", "Parameters", "an empty object of parameters is none", "add_sub")
def _(client):
    expect_output(client.infer("add_sub", [A, B], parameters={}), SUM)


@http.check("http.infer.unordered", "Inference Request JSON Object", "names of an object may come in any order", "add_sub")
def _(client):
    inputs = [{"data": given.json_data, "datatype": given.datatype, "shape": list(given.shape), "name": given.name} for given in (A, B)]
    expect_output(ok(client.post(infer_path("add_sub"), {"outputs": [{"name": "SUM"}], "inputs": inputs, "id": "1"})).json(), SUM)


@http.check("http.infer.unknown_fields", "Inference Request JSON Object", "names that the protocol does not define are passed over: clients send them",
            "add_sub", level=SHOULD)
def _(client):
    expect_output(client.infer("add_sub", [A, B], model_name="add_sub", something_else={"a": [1]}), SUM)


@http.check("http.infer.json.space", "Inference", "white space and escapes that JSON allows are read", "add_sub")
def _(client):
    text = (' {\r\n\t"inputs" : [ {"name":"INP\\u0055T0","shape":[1,4],"datatype":"FP32","data":[1,2e0,30e-1,4.0]} ,\n'
            '{"name":"INPUT1","shape":[1,4],"datatype":"FP32","data":[10,0.5,-3,0.25]}]\n} ')
    answer = ok(client.post(infer_path("add_sub"), text.encode(), headers=[("Content-Type", "application/json")])).json()
    expect_output(answer, SUM)


@http.check("http.infer.concurrent", "Inference", "requests at the same time get their own answers", identity("INT32"))
def _(client):
    import concurrent.futures

    def one(number):
        values = [number, -number, number * number]
        answer = client.infer(identity("INT32"), [tensor("INPUT0", "INT32", (1, 3), values)], id=str(number))
        expect_equal(answer.get("id"), str(number), "the id")
        expect_output(answer, tensor("OUTPUT0", "INT32", (1, 3), values))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(64)))


@types.check("http.data.row_major", "Tensor Data", "a flat list is in row-major order", "transpose")
def _(client):
    expect_output(client.infer("transpose", [MATRIX]), TRANSPOSED)


@types.check("http.data.nested", "Tensor Data", "data may be nested as the shape is", "transpose")
def _(client):
    request = infer_request([MATRIX])
    request["inputs"][0]["data"] = [[1, 2, 3], [4, 5, 6]]
    expect_output(ok(client.post(infer_path("transpose"), request)).json(), TRANSPOSED)


@types.check("http.data.dynamic", "Tensor Data", "sizes that metadata gives as -1 are free, and change from call to call", "row_sum")
def _(client):
    for rows, columns in ((1, 1), (2, 3), (5, 2)):
        given = tensor("MATRIX", "FP32", (rows, columns), [float(i) for i in range(rows * columns)])
        sums = [sum(given.values[row * columns:(row + 1) * columns]) for row in range(rows)]
        expect_output(client.infer("row_sum", [given]), tensor("SUMS", "FP32", (rows,), sums))


@types.check("http.data.large", "Tensor Data", "a tensor of 100,000 elements goes through", identity("FP32"))
def _(client):
    given = tensor("INPUT0", "FP32", (1, 100_000), [float(i) for i in range(100_000)])
    expect_output(client.infer(identity("FP32"), [given]), tensor("OUTPUT0", "FP32", given.shape, given.values))


def json_round_trip(datatype):
    def run(client):
        given = tensor("INPUT0", datatype, (2, 3), JSON_SAMPLES[datatype])
        answer = client.infer(identity(datatype), [given], outputs=[{"name": "OUTPUT0"}])
        expect_output(answer, tensor("OUTPUT0", datatype, given.shape, given.values))
    return run


for name in DATATYPES:
    if name not in RAW_ONLY:
        types.check(f"http.datatype.{name}", "Tensor Data Types", f"{name} as JSON: every value of the type comes back as it was",
                    identity(name), run=json_round_trip(name))
