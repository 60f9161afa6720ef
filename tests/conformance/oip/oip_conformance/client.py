"""What the checks use: requests of either protocol in terms of tensors."""

import functools
import json
import struct
import urllib.parse

from . import rpc as rpc_
from .registry import expect, expect_equal, shown
from .tensors import CONTENTS, count, pack
from .wire import JSON_LENGTH, Connection, parse_json

CLIENT_ERRORS = range(400, 500)  # what a mistake of the client should be
ERRORS = range(400, 600)  # what the specification demands: an error, "typically 400"


class Client:
    def __init__(self, http=None, grpc=None, timeout=30.0):
        """`http` is a URL or HOST:PORT, `grpc` HOST:PORT; either may be missing."""
        self.timeout = timeout
        self.address = self.base = None
        if http:
            url = urllib.parse.urlsplit(http if "//" in http else "//" + http, "http")
            if url.scheme != "http":
                raise ValueError(f"expected a URL with http, found {http!r}")
            self.address, self.base = (url.hostname, url.port or 80), url.path.rstrip("/")
        self.target = grpc
        self.leftovers = []  # functions that put back what a check has changed

    def close(self):
        if "rpc" in self.__dict__:
            self.rpc.close()

    @functools.cached_property
    def rpc(self):
        return rpc_.Rpc(self.target, self.timeout)

    # --- HTTP ---

    def connect(self, timeout=None):
        return Connection(self.address, timeout or self.timeout)

    def request(self, method, path, body=b"", headers=()):
        """On a connection of its own. A body that is no bytes goes as JSON."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers = [("Content-Type", "application/json"), *headers]
        with self.connect() as connection:
            return connection.request(method, self.base + path, body, headers)

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=b"", **options):
        return self.request("POST", path, body, **options)

    def get_json(self, path):
        return ok(self.get(path)).json()

    def post_json(self, path, body=b""):
        return ok(self.post(path, body)).json()

    def infer(self, model, inputs, version=None, **fields):
        """An inference with all tensors as JSON; the response's object."""
        return ok(self.post(infer_path(model, version), infer_request(inputs, **fields))).json()

    def infer_binary(self, model, inputs, headers=(), encode=None, **fields):
        """An inference with all inputs as binary data; the response's object and its tensors as bytes."""
        return read_binary(self.post_binary(model, inputs, headers, encode, **fields))

    def post_binary(self, model, inputs, headers=(), encode=None, **fields):
        body, length = binary_request(inputs, **fields)
        if encode:
            body = encode(body)
        return self.post(infer_path(model), body, headers=[
            ("Content-Type", "application/octet-stream"), ("Inference-Header-Content-Length", length), *headers])

    # --- gRPC ---

    def infer_message(self, model, inputs, outputs=(), version="", id="", parameters=None, raw=True):
        request = self.rpc.make("ModelInferRequest", model_name=model, model_version=version, id=id)
        for given in inputs:
            entry = request.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
            if raw:
                request.raw_input_contents.append(given.raw)
            else:
                getattr(entry.contents, CONTENTS[given.datatype]).extend(given.values)
        for name, settings in outputs:
            set_parameters(request.outputs.add(name=name).parameters, settings)
        set_parameters(request.parameters, parameters or {})
        return request

    def infer_grpc(self, model, inputs, **options):
        """An inference by ModelInfer; the response."""
        return self.rpc.call("ModelInfer", self.infer_message(model, inputs, **options))


def set_parameters(message, values):
    for name, value in values.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(message[name], kind, value)


def infer_path(model, version=None):
    return f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"


def infer_request(inputs, outputs=None, **fields):
    request = {**fields, "inputs": [
        {"name": given.name, "shape": list(given.shape), "datatype": given.datatype, "data": given.json_data} for given in inputs]}
    if outputs is not None:
        request["outputs"] = outputs
    return request


def binary_request(inputs, outputs=None, **fields):
    """A request with binary data: the body, and the length of its JSON."""
    request = {**fields, "inputs": [
        {"name": given.name, "shape": list(given.shape), "datatype": given.datatype,
         "parameters": {"binary_data_size": len(given.raw)}} for given in inputs]}
    if outputs is not None:
        request["outputs"] = outputs
    text = json.dumps(request).encode()
    return text + b"".join(given.raw for given in inputs), len(text)


def read_binary(response):
    """The object of an inference response, and the bytes of each tensor that is not JSON."""
    content = ok(response).content
    length = response.header(JSON_LENGTH)
    expect(length is not None, "a header Inference-Header-Content-Length", f"none; {shown(content)}")
    expect(length.isdigit() and int(length) <= len(content), f"a JSON length of at most {len(content)} bytes", length)
    answer = parse_json(content[:int(length)])
    blobs, at = {}, int(length)
    for output in answer.get("outputs", []):
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            expect(type(size) is int and size >= 0, "a binary_data_size in bytes", size)
            expect("data" not in output, f"no data beside the binary data of {output.get('name')!r}", output.get("data"))
            expect(at + size <= len(content), f"{size} bytes for {output.get('name')!r}", f"{len(content) - at} that are left")
            blobs[output["name"]] = content[at:at + size]
            at += size
    expect(at == len(content), f"a body of {at} bytes, as its sizes say", len(content))
    return answer, blobs


def ok(response):
    expect(response.status == 200, "status 200", f"{response.status}: {shown(response.body)}")
    return response


def refused(response, statuses=ERRORS):
    """An error as the protocol has it: a status and {"error": TEXT}."""
    expected = f"status {statuses.start} to {statuses.stop - 1}" if isinstance(statuses, range) else f"status {statuses}"
    expect(response.status in statuses, expected, f"{response.status}: {shown(response.body)}")
    answer = response.json()
    expect(isinstance(answer, dict) and isinstance(answer.get("error"), str) and answer["error"],
           'a body {"error": TEXT}', answer)
    return answer["error"]


def output_of(answer, name):
    """The output of that name of a response's object."""
    expect(isinstance(answer.get("outputs"), list), "a list of outputs", answer)
    found = [output for output in answer["outputs"] if output.get("name") == name]
    expect(len(found) == 1, f"one output {name!r}", [output.get("name") for output in answer["outputs"]])
    return found[0]


def expect_output(answer, wanted):
    """That a response's object has this tensor, as JSON."""
    output = output_of(answer, wanted.name)
    expect_equal(output.get("datatype"), wanted.datatype, f"{wanted.name}: the datatype")
    expect_equal(output.get("shape"), list(wanted.shape), f"{wanted.name}: the shape")
    data = flat(output.get("data"), f"{wanted.name}: data as a list")
    expect_values(data, wanted)


def flat(data, expected):
    expect(isinstance(data, list), expected, data)
    result = []
    for element in data:
        result += flat(element, expected) if isinstance(element, list) else [element]
    return result


def expect_values(data, wanted):
    kinds = {"BOOL": (bool,), "BYTES": (str,), "FP32": (float, int), "FP64": (float, int)}.get(wanted.datatype, (int,))
    expect(all(type(value) in kinds for value in data), f"{wanted.name}: elements such as {shown(wanted.json_data[:4])}", data)
    expect(len(data) == count(wanted.shape), f"{wanted.name}: {count(wanted.shape)} elements", len(data))
    values = [value.encode() for value in data] if wanted.datatype == "BYTES" else data
    try:
        same = pack(wanted.datatype, values) == wanted.raw
    except (OverflowError, ValueError, struct.error):
        same = False
    expect(same, f"{wanted.name}: {shown(wanted.json_data)}", data)


def expect_raw(raw, wanted):
    """That these are the bytes of the tensor."""
    expect(len(raw) == len(wanted.raw), f"{wanted.name}: {len(wanted.raw)} bytes", f"{len(raw)}: {shown(raw[:40])}")
    expect(raw == wanted.raw, f"{wanted.name}: {shown(wanted.raw[:60])}", raw[:60])


def expect_binary(answer, blobs, wanted):
    """That a response with binary data has this tensor."""
    output = output_of(answer, wanted.name)
    expect_equal(output.get("datatype"), wanted.datatype, f"{wanted.name}: the datatype")
    expect_equal(output.get("shape"), list(wanted.shape), f"{wanted.name}: the shape")
    expect(wanted.name in blobs, f"{wanted.name} as binary data", output)
    expect_raw(blobs[wanted.name], wanted)


def expect_message(response, wanted):
    """That a ModelInferResponse has this tensor, raw or by contents."""
    names = [output.name for output in response.outputs]
    expect(names.count(wanted.name) == 1, f"one output {wanted.name!r}", names)
    at = names.index(wanted.name)
    output = response.outputs[at]
    expect_equal(output.datatype, wanted.datatype, f"{wanted.name}: the datatype")
    expect_equal(list(output.shape), list(wanted.shape), f"{wanted.name}: the shape")
    if response.raw_output_contents:
        expect(len(response.raw_output_contents) == len(response.outputs), f"{len(response.outputs)} raw contents, one an output",
               len(response.raw_output_contents))
        expect(not output.HasField("contents"), f"{wanted.name}: no contents beside the raw ones", shown(str(output.contents)))
        expect_raw(response.raw_output_contents[at], wanted)
    else:
        values = list(getattr(output.contents, CONTENTS[wanted.datatype])) if wanted.datatype in CONTENTS else []
        expect(values == list(wanted.values), f"{wanted.name}: {shown(wanted.values)}", values)
