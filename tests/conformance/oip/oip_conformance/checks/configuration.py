"""The extension model_configuration."""

from ..client import refused
from ..registry import SHOULD, Group, expect, expect_equal

http = Group("model configuration", "http", "model_configuration")
rpc = Group("model configuration", "grpc", "model_configuration")
SECTION = "Model Configuration Extension"


@http.check("http.config", SECTION, "GET v2/models/NAME/config answers the configuration as JSON, with its name", "add_sub")
def _(client):
    expect_equal(client.get_json("/v2/models/add_sub/config").get("name"), "add_sub", "the name")


@http.check("http.config.tensors", SECTION, "with names, types and dimensions of the tensors", "add_sub")
def _(client):
    found = client.get_json("/v2/models/add_sub/config")
    inputs = [(entry.get("name"), entry.get("data_type"), [int(size) for size in entry.get("dims", [])]) for entry in found.get("input", [])]
    expect(inputs == [("INPUT0", "TYPE_FP32", [4]), ("INPUT1", "TYPE_FP32", [4])], "INPUT0 and INPUT1, TYPE_FP32, [4]", inputs)
    expect_equal([entry.get("name") for entry in found.get("output", [])], ["SUM", "DIFFERENCE"], "the outputs")


@http.check("http.config.numbers", SECTION, "numbers are JSON numbers, and names are those of the schema, not in camel case", "add_sub",
            level=SHOULD)
def _(client):
    found = client.get_json("/v2/models/add_sub/config")
    expect_equal(found.get("max_batch_size"), 8, "max_batch_size")
    expect_equal(found["input"][0].get("dims"), [4], "dims")


@http.check("http.config.version", SECTION, "a version may be named in the path", "versions")
def _(client):
    expect_equal(client.get_json("/v2/models/versions/versions/3/config").get("name"), "versions", "the name")


@http.check("http.config.unknown", SECTION, 'an unknown model is an HTTP error with {"error": TEXT}')
def _(client):
    refused(client.get("/v2/models/no_such_model/config"))


@rpc.check("grpc.config", SECTION, "ModelConfig answers the configuration", "add_sub")
def _(client):
    found = client.rpc.call("ModelConfig", client.rpc.make("ModelConfigRequest", name="add_sub")).config
    expect(found.name == "add_sub" and found.max_batch_size == 8, "add_sub with max_batch_size 8", f"{found.name}, {found.max_batch_size}")
    expect([(entry.name, entry.data_type, list(entry.dims)) for entry in found.input] == [("INPUT0", 11, [4]), ("INPUT1", 11, [4])],
           "INPUT0 and INPUT1, TYPE_FP32, [4]", str(found.input))


@rpc.check("grpc.config.unknown", SECTION, "an unknown model is an error")
def _(client):
    client.rpc.refused("ModelConfig", client.rpc.make("ModelConfigRequest", name="no_such_model"),
                       ("NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"))
