"""The extension model_repository: index, load, unload."""

from ..client import expect_message, expect_output, infer_path, infer_request, ok, refused
from ..registry import Group, expect
from ..tensors import tensor

http = Group("model repository", "http", "model_repository")
rpc = Group("model repository", "grpc", "model_repository")
load = Group("model repository", "http", "load")
rpc_load = Group("model repository", "grpc", "load")
SECTION = "Model Repository Extension: "
GIVEN = tensor("INPUT0", "INT32", (1, 1), [7])
ECHO = tensor("OUTPUT0", "INT32", (1, 1), [7])
SPARE = "/v2/repository/models/spare"


def index(client, body=b""):
    found = client.post_json("/v2/repository/index", body)
    expect(isinstance(found, list) and all(isinstance(entry, dict) for entry in found), "a list of objects", found)
    return found


@http.check("http.repository.index", SECTION + "Index", "the index names every model, with its state", "add_sub")
def _(client):
    found = [entry for entry in index(client) if entry.get("name") == "add_sub"]
    expect(len(found) == 1, "one entry for add_sub", found)
    expect(found[0].get("state") == "READY", "the state READY", found[0])


@http.check("http.repository.index.types", SECTION + "Index", "its values are strings", "add_sub")
def _(client):
    for entry in index(client):
        expect(set(entry) <= {"name", "version", "state", "reason"}, "name, version, state and reason", entry)
        expect(all(isinstance(value, str) for value in entry.values()), "strings", entry)


@http.check("http.repository.index.versions", SECTION + "Index", "each version that is served has an entry", "versions")
def _(client):
    found = sorted(entry.get("version", "") for entry in index(client) if entry.get("name") == "versions")
    expect(found == ["1", "3"], ["1", "3"], found)


@http.check("http.repository.index.ready", SECTION + "Index", "ready: true gives only what is ready", "add_sub")
def _(client):
    found = index(client, {"ready": True})
    expect(any(entry.get("name") == "add_sub" for entry in found), "add_sub among them", found)
    expect(all(entry.get("state", "READY") == "READY" for entry in found), "only READY", found)


@http.check("http.repository.load.unknown", SECTION + "Load", "a model that is in no repository is refused")
def _(client):
    refused(client.post("/v2/repository/models/no_such_model/load"))


@rpc.check("grpc.repository.index", SECTION + "Index", "RepositoryIndex names every model, with its state", "add_sub")
def _(client):
    found = [(entry.name, entry.state) for entry in client.rpc.call("RepositoryIndex").models]
    expect(("add_sub", "READY") in found, "add_sub, READY", found)


@rpc.check("grpc.repository.index.versions", SECTION + "Index", "each version that is served has an entry", "versions")
def _(client):
    found = sorted(entry.version for entry in client.rpc.call("RepositoryIndex").models if entry.name == "versions")
    expect(found == ["1", "3"], ["1", "3"], found)


def restore(client):
    client.post(SPARE + "/load")


@load.check("http.repository.unload", SECTION + "Unload", "an unloaded model is not ready, and answers an error until it is loaded", "spare")
def _(client):
    client.leftovers.append(lambda: restore(client))
    ok(client.post(SPARE + "/unload"))
    expect(client.get("/v2/models/spare/ready").status >= 400, "spare not ready", client.get("/v2/models/spare/ready").status)
    refused(client.post(infer_path("spare"), infer_request([GIVEN])))
    ok(client.post(SPARE + "/load"))
    ok(client.get("/v2/models/spare/ready"))
    expect_output(client.infer("spare", [GIVEN]), ECHO)


@load.check("http.repository.unload.index", SECTION + "Index", "the index tells it: not READY, and not among those that are", "spare")
def _(client):
    client.leftovers.append(lambda: restore(client))
    ok(client.post(SPARE + "/unload"))
    expect(all(entry.get("state") != "READY" for entry in index(client) if entry["name"] == "spare"), "spare not READY", index(client))
    expect(all(entry["name"] != "spare" for entry in index(client, {"ready": True})), "spare not among those that are ready", "it is")


@load.check("http.repository.reload", SECTION + "Load", "loading what is loaded reloads it", "spare")
def _(client):
    ok(client.post(SPARE + "/load"))
    expect_output(client.infer("spare", [GIVEN]), ECHO)


@load.check("http.repository.load.body", SECTION + "Load", "an empty object, and empty parameters, are as no body", "spare")
def _(client):
    ok(client.post(SPARE + "/load", {}))
    ok(client.post(SPARE + "/load", {"parameters": {}}))


@load.check("http.repository.unload.parameters", SECTION + "Unload", "unload_dependents is taken", "spare")
def _(client):
    client.leftovers.append(lambda: restore(client))
    ok(client.post(SPARE + "/unload", {"parameters": {"unload_dependents": True}}))
    expect(client.get("/v2/models/spare/ready").status >= 400, "spare not ready", client.get("/v2/models/spare/ready").status)


@load.check("http.repository.load.config", SECTION + "Load", "a configuration that is none is refused, and the model goes on", "spare")
def _(client):
    client.leftovers.append(lambda: restore(client))
    refused(client.post(SPARE + "/load", {"parameters": {"config": "{ no configuration"}}))
    expect_output(client.infer("spare", [GIVEN]), ECHO)


@rpc_load.check("grpc.repository.unload", SECTION + "Unload", "the same over gRPC", "spare")
def _(client):
    client.leftovers.append(lambda: client.rpc.call("RepositoryModelLoad", client.rpc.make("RepositoryModelLoadRequest", model_name="spare")))
    client.rpc.call("RepositoryModelUnload", client.rpc.make("RepositoryModelUnloadRequest", model_name="spare"))
    client.rpc.refused("ModelInfer", client.infer_message("spare", [GIVEN]), ("NOT_FOUND", "UNAVAILABLE", "INVALID_ARGUMENT"))
    client.rpc.call("RepositoryModelLoad", client.rpc.make("RepositoryModelLoadRequest", model_name="spare"))
    expect_message(client.infer_grpc("spare", [GIVEN]), ECHO)


@rpc_load.check("grpc.repository.load.unknown", SECTION + "Load", "a model that is in no repository is refused")
def _(client):
    client.rpc.refused("RepositoryModelLoad", client.rpc.make("RepositoryModelLoadRequest", model_name="no_such_model"),
                       ("NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE", "INTERNAL"))
