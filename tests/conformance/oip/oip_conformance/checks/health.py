"""Liveness and readiness."""

from ..client import ok, refused
from ..registry import SHOULD, Group, expect, expect_equal

http = Group("health", "http")
rpc = Group("health", "grpc")


@http.check("http.health.live", "Server Live", "GET v2/health/live answers 200 while the server runs")
def _(client):
    ok(client.get("/v2/health/live"))


@http.check("http.health.live.body", "Server Live Response JSON Object", "the answer is an object with live: true")
def _(client):
    answer = client.get_json("/v2/health/live")
    expect(isinstance(answer, dict) and answer.get("live") is True, {"live": True}, answer)


@http.check("http.health.ready", "Server Ready", "GET v2/health/ready answers 200 while the server takes requests")
def _(client):
    ok(client.get("/v2/health/ready"))


@http.check("http.health.ready.body", "Server Ready Response JSON Object", "the answer is an object with ready: true", level=SHOULD)
def _(client):
    answer = client.get_json("/v2/health/ready")
    expect(isinstance(answer, dict) and answer.get("ready") is True, {"ready": True}, answer)


@http.check("http.health.model", "Model Ready", "GET v2/models/NAME/ready answers 200 for a model that is ready", "add_sub")
def _(client):
    ok(client.get("/v2/models/add_sub/ready"))


@http.check("http.health.model.body", "Model Ready Response JSON Object", "the answer names the model and says ready: true", "add_sub")
def _(client):
    answer = client.get_json("/v2/models/add_sub/ready")
    expect(isinstance(answer, dict), "an object", answer)
    expect_equal(answer.get("name"), "add_sub", "the name")
    expect_equal(answer.get("ready"), True, "ready as")


@http.check("http.health.model.version", "Model Ready", "a version may be named in the path", "versions")
def _(client):
    ok(client.get("/v2/models/versions/versions/1/ready"))


@http.check("http.health.model.unknown", "Model Ready", "a model that is not known is not ready: an HTTP error")
def _(client):
    response = client.get("/v2/models/no_such_model/ready")
    expect(response.status in range(400, 600), "an HTTP error", response.status)


@http.check("http.health.model.unknown.error", "Model Ready", 'that error is 404 with {"error": TEXT}', level=SHOULD)
def _(client):
    refused(client.get("/v2/models/no_such_model/ready"), (404,))


@http.check("http.health.model.unknown_version", "Model Ready", "a version that is not there is not ready: an HTTP error", "versions")
def _(client):
    response = client.get("/v2/models/versions/versions/77/ready")
    expect(response.status in range(400, 600), "an HTTP error", response.status)


@rpc.check("grpc.health.live", "gRPC: Server Live", "ServerLive says live")
def _(client):
    expect(client.rpc.call("ServerLive").live, "live", "not live")


@rpc.check("grpc.health.ready", "gRPC: Server Ready", "ServerReady says ready")
def _(client):
    expect(client.rpc.call("ServerReady").ready, "ready", "not ready")


@rpc.check("grpc.health.model", "gRPC: Model Ready", "ModelReady says ready for a model that is", "add_sub")
def _(client):
    request = client.rpc.make("ModelReadyRequest", name="add_sub")
    expect(client.rpc.call("ModelReady", request).ready, "ready", "not ready")


@rpc.check("grpc.health.model.version", "gRPC: Model Ready", "a version may be named", "versions")
def _(client):
    request = client.rpc.make("ModelReadyRequest", name="versions", version="1")
    expect(client.rpc.call("ModelReady", request).ready, "ready", "not ready")


@rpc.check("grpc.health.model.unknown", "gRPC: Model Ready", "a model that is not known is not ready: false, or the status NOT_FOUND")
def _(client):
    not_ready(client, name="no_such_model")


@rpc.check("grpc.health.model.unknown_version", "gRPC: Model Ready", "a version that is not there is not ready: false, or NOT_FOUND",
           "versions")
def _(client):
    not_ready(client, name="versions", version="77")


def not_ready(client, **fields):
    import grpc
    try:
        answer = client.rpc.stub("ModelReady")(client.rpc.make("ModelReadyRequest", **fields), timeout=client.timeout)
        expect(not answer.ready, "not ready, or NOT_FOUND", "ready")
    except grpc.RpcError as error:
        expect(error.code().name in ("NOT_FOUND", "UNAVAILABLE"), "not ready, or NOT_FOUND", f"{error.code().name}: {error.details()}")
