"""The extension statistics."""

from ..client import infer_path, infer_request, refused
from ..registry import Group, expect
from ..tensors import tensor
from .http_inference import A, B

http = Group("statistics", "http", "statistics")
rpc = Group("statistics", "grpc", "statistics")
SECTION = "Statistics Extension"
DURATIONS = ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]


def stats(client, path="/v2/models/add_sub/stats"):
    found = client.get_json(path)
    expect(isinstance(found, dict) and isinstance(found.get("model_stats"), list), 'an object with a list "model_stats"', found)
    return found["model_stats"]


def of_add_sub(client):
    found = stats(client)
    expect(len(found) == 1 and found[0].get("name") == "add_sub", "one entry, of add_sub", found)
    return found[0]


@http.check("http.statistics", SECTION, "GET v2/models/NAME/stats answers that model's figures", "add_sub")
def _(client):
    of_add_sub(client)


@http.check("http.statistics.types", SECTION, "counts and nanoseconds are non-negative integers, the version is a string", "add_sub")
def _(client):
    client.infer("add_sub", [A, B])
    found = of_add_sub(client)
    expect(isinstance(found.get("version", ""), str), "the version as a string", found.get("version"))
    for name in ("last_inference", "inference_count", "execution_count"):
        expect(type(found.get(name)) is int and found[name] > 0, f"{name} above 0", found.get(name))
    for name in DURATIONS:
        value = found.get("inference_stats", {}).get(name, {})
        expect(all(type(value.get(key)) is int and value[key] >= 0 for key in ("count", "ns")), f"{name} with count and ns", value)


@http.check("http.statistics.success", SECTION, "a success counts once in success", "add_sub")
def _(client):
    before = of_add_sub(client)["inference_stats"]["success"]["count"]
    client.infer("add_sub", [A, B])
    after = of_add_sub(client)["inference_stats"]["success"]["count"]
    expect(after == before + 1, before + 1, after)


@http.check("http.statistics.items", SECTION, "inference_count counts each item of a batch", "add_sub")
def _(client):
    before = of_add_sub(client)
    client.infer("add_sub", [tensor(given.name, "FP32", (3, 4), given.values * 3) for given in (A, B)])
    after = of_add_sub(client)
    expect(after["inference_count"] == before["inference_count"] + 3, before["inference_count"] + 3, after["inference_count"])
    expect(after["execution_count"] == before["execution_count"] + 1, f"{before['execution_count'] + 1} executions", after["execution_count"])


@http.check("http.statistics.batches", SECTION, "batch_stats has an entry for a size that was run, with its counts", "add_sub")
def _(client):
    client.infer("add_sub", [tensor(given.name, "FP32", (2, 4), given.values * 2) for given in (A, B)])
    batches = of_add_sub(client).get("batch_stats")
    found = [entry for entry in batches or [] if entry.get("batch_size") == 2]
    expect(len(found) == 1 and found[0].get("compute_infer", {}).get("count", 0) > 0, "one entry of batch size 2 with a count", batches)


@http.check("http.statistics.fail", SECTION, "a refused request is no success", "add_sub")
def _(client):
    before = of_add_sub(client)
    refused(client.post(infer_path("add_sub"), infer_request([A])))
    after = of_add_sub(client)
    expect(after["inference_count"] == before["inference_count"], before["inference_count"], after["inference_count"])


@http.check("http.statistics.all", SECTION, "GET v2/models/stats answers those of all models", "add_sub", "classify")
def _(client):
    names = {entry.get("name") for entry in stats(client, "/v2/models/stats")}
    expect({"add_sub", "classify"} <= names, "add_sub and classify among them", sorted(map(str, names)))


@http.check("http.statistics.version", SECTION, "of one version, where one is named; of all, where none is", "versions")
def _(client):
    found = [entry.get("version") for entry in stats(client, "/v2/models/versions/versions/3/stats")]
    expect(found == ["3"], ["3"], found)
    found = sorted(entry.get("version", "") for entry in stats(client, "/v2/models/versions/stats"))
    expect(found == ["1", "3"], ["1", "3"], found)


@http.check("http.statistics.unknown", SECTION, 'an unknown model is an HTTP error with {"error": TEXT}')
def _(client):
    refused(client.get("/v2/models/no_such_model/stats"))


@rpc.check("grpc.statistics", SECTION, "ModelStatistics answers a model's figures", "add_sub")
def _(client):
    client.infer_grpc("add_sub", [A, B])
    (found,) = client.rpc.call("ModelStatistics", client.rpc.make("ModelStatisticsRequest", name="add_sub")).model_stats
    expect(found.name == "add_sub" and found.version == "1", "add_sub, version 1", f"{found.name}, {found.version}")
    expect(found.inference_count > 0 and found.execution_count > 0 and found.inference_stats.success.count > 0, "counts above 0", str(found))


@rpc.check("grpc.statistics.all", SECTION, "without a name, those of all models", "add_sub", "classify")
def _(client):
    names = {entry.name for entry in client.rpc.call("ModelStatistics").model_stats}
    expect({"add_sub", "classify"} <= names, "add_sub and classify among them", sorted(names))


@rpc.check("grpc.statistics.unknown", SECTION, "an unknown model is an error")
def _(client):
    client.rpc.refused("ModelStatistics", client.rpc.make("ModelStatisticsRequest", name="no_such_model"),
                       ("NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE"))
