"""What the server and its models say of themselves."""

from ..client import ok, refused
from ..fixtures import MODELS, described
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import DATATYPES

http = Group("metadata", "http")
rpc = Group("metadata", "grpc")
FIXED = ["add_sub", "classify", "transpose", "row_sum", "slow"]


def expect_text(value, what):
    expect(isinstance(value, str) and value, f"{what} as a string", value)


@http.check("http.server.name", "Server Metadata Response JSON Object", "GET v2 answers the server's name")
def _(client):
    expect_text(client.get_json("/v2").get("name"), "name")


@http.check("http.server.version", "Server Metadata Response JSON Object", "the version is a string")
def _(client):
    expect_text(client.get_json("/v2").get("version"), "version")


@http.check("http.server.extensions", "Server Metadata Response JSON Object", "the extensions are a list of strings")
def _(client):
    extensions = client.get_json("/v2").get("extensions")
    expect(isinstance(extensions, list) and all(isinstance(name, str) for name in extensions), "a list of strings", extensions)


@http.check("http.server.extensions.once", "Server Metadata Response JSON Object", "no extension is listed twice", level=SHOULD)
def _(client):
    extensions = client.get_json("/v2")["extensions"]
    expect(len(set(extensions)) == len(extensions), "each once", extensions)


@http.check("http.server.content_type", "Server Metadata", "JSON is sent as Content-Type: application/json", level=SHOULD)
def _(client):
    kind = ok(client.get("/v2")).header("content-type") or "none"
    expect(kind.split(";")[0].strip() == "application/json", "application/json", kind)


@http.check("http.model.name", "Model Metadata Response JSON Object", "the metadata names the model", "add_sub")
def _(client):
    expect_equal(client.get_json("/v2/models/add_sub").get("name"), "add_sub", "the name")


@http.check("http.model.versions", "Model Metadata Response JSON Object", "the versions, if any are given, are strings", "versions")
def _(client):
    versions = client.get_json("/v2/models/versions").get("versions", [])
    expect(isinstance(versions, list) and all(isinstance(version, str) for version in versions), 'strings, as ["1", "3"]', versions)


@http.check("http.model.versions.all", "Model Metadata Response JSON Object", "the versions are those that may be requested", "versions")
def _(client):
    versions = client.get_json("/v2/models/versions").get("versions", [])
    expect(sorted(map(str, versions)) == ["1", "3"], ["1", "3"], versions)


@http.check("http.model.versions.type", "Model Metadata Response JSON Object", "versions are a list, or are left out: null is neither", "add_sub")
def _(client):
    answer = client.get_json("/v2/models/add_sub")
    expect("versions" not in answer or isinstance(answer["versions"], list), "a list, or none", answer.get("versions"))


@http.check("http.model.platform", "Model Metadata Response JSON Object", "the platform is a string", "add_sub")
def _(client):
    expect(isinstance(client.get_json("/v2/models/add_sub").get("platform"), str), "a string", client.get_json("/v2/models/add_sub"))


@http.check("http.model.version_in_path", "Model Metadata", "a version may be named in the path", "versions")
def _(client):
    expect_equal(client.get_json("/v2/models/versions/versions/1").get("name"), "versions", "the name")


@http.check("http.model.inputs", "Model Metadata Response JSON Object", "the inputs are those of the model, in its order", "add_sub")
def _(client):
    names = [tensor.get("name") for tensor in client.get_json("/v2/models/add_sub")["inputs"]]
    expect_equal(names, ["INPUT0", "INPUT1"], "the inputs")


@http.check("http.model.outputs", "Model Metadata Response JSON Object", "the outputs are those of the model, in its order", "add_sub")
def _(client):
    names = [tensor.get("name") for tensor in client.get_json("/v2/models/add_sub")["outputs"]]
    expect_equal(names, ["SUM", "DIFFERENCE"], "the outputs")


def shapes_over_http(name):
    def run(client):
        inputs, outputs, batch, _ = MODELS[name]
        answer = client.get_json(f"/v2/models/{name}")
        expect(answer.get("inputs") == described(inputs, batch), described(inputs, batch), answer.get("inputs"))
        expect(answer.get("outputs") == described(outputs, batch), described(outputs, batch), answer.get("outputs"))
    return run


for model in FIXED:
    http.check(f"http.model.tensors.{model}", "Model Metadata Response JSON Object",
               f"names, datatypes and shapes of {model}'s tensors; -1 where a size varies", model, run=shapes_over_http(model))


@http.check("http.model.datatypes", "Tensor Data Types", "every datatype is given by its name in the protocol",
            *[f"identity_{datatype.lower()}" for datatype in DATATYPES if datatype != "BF16"])
def _(client):
    for datatype in DATATYPES:
        if datatype != "BF16":
            found = client.get_json(f"/v2/models/identity_{datatype.lower()}")["inputs"][0].get("datatype")
            expect_equal(found, datatype, "the datatype")


@http.check("http.model.unknown", "Model Metadata Response JSON Error Object", 'an unknown model is an HTTP error with {"error": TEXT}')
def _(client):
    refused(client.get("/v2/models/no_such_model"))


@http.check("http.model.unknown.status", "Model Metadata Response JSON Error Object", "that error is 404", level=SHOULD)
def _(client):
    refused(client.get("/v2/models/no_such_model"), (404,))


@http.check("http.model.unknown_version", "Model Metadata Response JSON Error Object", "an unknown version is such an error too", "versions")
def _(client):
    refused(client.get("/v2/models/versions/versions/77"))


@rpc.check("grpc.server.metadata", "gRPC: Server Metadata", "ServerMetadata answers name and version")
def _(client):
    answer = client.rpc.call("ServerMetadata")
    expect(answer.name and answer.version, "a name and a version", str(answer))


@rpc.check("grpc.server.extensions", "gRPC: Server Metadata", "both protocols name the same extensions", level=SHOULD)
def _(client):
    if client.address:
        both = sorted(client.rpc.call("ServerMetadata").extensions), sorted(client.get_json("/v2")["extensions"])
        expect(both[0] == both[1], both[1], both[0])


@rpc.check("grpc.model.metadata", "gRPC: Model Metadata", "ModelMetadata answers the model's name", "add_sub")
def _(client):
    expect_equal(client.rpc.call("ModelMetadata", client.rpc.make("ModelMetadataRequest", name="add_sub")).name, "add_sub", "the name")


@rpc.check("grpc.model.versions", "gRPC: Model Metadata", "the versions are those that are there", "versions")
def _(client):
    answer = client.rpc.call("ModelMetadata", client.rpc.make("ModelMetadataRequest", name="versions"))
    expect(sorted(answer.versions) == ["1", "3"], ["1", "3"], list(answer.versions))


def shapes_over_grpc(name):
    def run(client):
        inputs, outputs, batch, _ = MODELS[name]
        answer = client.rpc.call("ModelMetadata", client.rpc.make("ModelMetadataRequest", name=name))
        for tensors, wanted in ((answer.inputs, inputs), (answer.outputs, outputs)):
            found = [{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)} for tensor in tensors]
            expect(found == described(wanted, batch), described(wanted, batch), found)
    return run


for model in FIXED:
    rpc.check(f"grpc.model.tensors.{model}", "gRPC: Model Metadata", f"names, datatypes and shapes of {model}'s tensors", model,
              run=shapes_over_grpc(model))


@rpc.check("grpc.model.unknown", "gRPC: Model Metadata", "an unknown model is an error")
def _(client):
    client.rpc.refused("ModelMetadata", client.rpc.make("ModelMetadataRequest", name="no_such_model"),
                       ("NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"))


@rpc.check("grpc.model.unknown.status", "gRPC: Model Metadata", "that error is NOT_FOUND", level=SHOULD)
def _(client):
    client.rpc.refused("ModelMetadata", client.rpc.make("ModelMetadataRequest", name="no_such_model"), ("NOT_FOUND",))


@rpc.check("grpc.model.unknown_version", "gRPC: Model Metadata", "an unknown version is an error", "versions")
def _(client):
    client.rpc.refused("ModelMetadata", client.rpc.make("ModelMetadataRequest", name="versions", version="77"),
                       ("NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"))
