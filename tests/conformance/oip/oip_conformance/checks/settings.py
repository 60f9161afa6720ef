"""The extensions trace and logging: settings that are read and changed."""

from ..client import refused
from ..registry import Group, expect, expect_equal

trace = Group("trace", "http", "trace")
rpc_trace = Group("trace", "grpc", "trace")
logging = Group("logging", "http", "logging")
rpc_logging = Group("logging", "grpc", "logging")
change_trace = Group("trace", "http", "settings")
change_logging = Group("logging", "http", "settings")
rpc_change = Group("logging", "grpc", "settings")
LOG = {"log_file": str, "log_info": bool, "log_warning": bool, "log_error": bool, "log_verbose_level": int, "log_format": str}


def expect_object(found):
    expect(isinstance(found, dict), "an object", found)
    return found


@trace.check("http.trace", "Trace Extension", "GET v2/trace/setting answers the settings: strings, or lists of strings")
def _(client):
    found = expect_object(client.get_json("/v2/trace/setting"))
    expect({"trace_level", "trace_rate"} <= set(found), "trace_level and trace_rate among them", sorted(found))
    for name, value in found.items():
        texts = value if isinstance(value, list) else [value]
        expect(all(isinstance(text, str) for text in texts), f"{name} as a string or a list of strings", value)


@trace.check("http.trace.model", "Trace Extension", "those of a model by v2/models/NAME/trace/setting", "add_sub")
def _(client):
    expect("trace_level" in expect_object(client.get_json("/v2/models/add_sub/trace/setting")), "trace_level among them", "none")


@trace.check("http.trace.unknown", "Trace Response JSON Error Object", "an unknown model is an HTTP error")
def _(client):
    refused(client.get("/v2/models/no_such_model/trace/setting"))


@change_trace.check("http.trace.change", "Trace Request JSON Object", "a change answers all settings, and stays; the others do not change")
def _(client):
    before = client.get_json("/v2/trace/setting")
    client.leftovers.append(lambda: client.post("/v2/trace/setting", {"trace_rate": before["trace_rate"]}))
    found = expect_object(client.post_json("/v2/trace/setting", {"trace_rate": "77"}))
    expect(found == before | {"trace_rate": "77"}, before | {"trace_rate": "77"}, found)
    expect_equal(client.get_json("/v2/trace/setting").get("trace_rate"), "77", "trace_rate")


@change_trace.check("http.trace.error", "Trace Response JSON Error Object", "a setting or a value that is not known is refused")
def _(client):
    refused(client.post("/v2/trace/setting", {"no_such_setting": "1"}))
    refused(client.post("/v2/trace/setting", {"trace_rate": "often"}))


@logging.check("http.logging", "Logging Extension", "GET v2/logging answers all settings, each of its type")
def _(client):
    found = expect_object(client.get_json("/v2/logging"))
    for name, kind in LOG.items():
        expect(type(found.get(name)) is kind, f"{name} as {kind.__name__}", found.get(name))


@change_logging.check("http.logging.change", "Log Setting Request JSON Object", "a change answers all settings, and stays; the others do not change")
def _(client):
    before = client.get_json("/v2/logging")
    client.leftovers.append(lambda: client.post("/v2/logging", {"log_verbose_level": before["log_verbose_level"]}))
    wanted = before | {"log_verbose_level": before["log_verbose_level"] + 1}
    for found in (client.post_json("/v2/logging", {"log_verbose_level": wanted["log_verbose_level"]}), client.get_json("/v2/logging")):
        expect(found == wanted, wanted, found)


@change_logging.check("http.logging.error", "Log Setting Response JSON Error Object", "a setting that is not known, or of another type, is refused")
def _(client):
    refused(client.post("/v2/logging", {"no_such_setting": True}))
    refused(client.post("/v2/logging", {"log_info": "yes"}))


@rpc_trace.check("grpc.trace", "Trace Extension", "TraceSetting without settings answers those in force")
def _(client):
    found = client.rpc.call("TraceSetting").settings
    expect("trace_level" in found and "trace_rate" in found, "trace_level and trace_rate among them", sorted(found))


@rpc_logging.check("grpc.logging", "Logging Extension", "LogSettings without settings answers those in force")
def _(client):
    found = client.rpc.call("LogSettings").settings
    for name, kind in LOG.items():
        field = {str: "string_param", bool: "bool_param", int: "uint32_param"}[kind]
        expect(name in found and found[name].WhichOneof("parameter_choice") == field, f"{name} as {field}", str(found.get(name)))


@rpc_change.check("grpc.logging.change", "Logging Extension", "a change over gRPC stays")
def _(client):
    before = client.rpc.call("LogSettings").settings["log_verbose_level"].uint32_param

    def change(level):
        request = client.rpc.make("LogSettingsRequest")
        request.settings["log_verbose_level"].uint32_param = level
        return client.rpc.call("LogSettings", request).settings["log_verbose_level"].uint32_param
    client.leftovers.append(lambda: change(before))
    expect_equal(change(before + 1), before + 1, "log_verbose_level")
    expect_equal(client.rpc.call("LogSettings").settings["log_verbose_level"].uint32_param, before + 1, "log_verbose_level")
