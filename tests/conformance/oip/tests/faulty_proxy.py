"""A reverse proxy for HTTP and gRPC that does one thing wrong. `FAULTS` names each fault, with the checks meant for it."""

import concurrent.futures
import dataclasses
import gzip
import http.server
import json
import select
import threading
import zlib

import grpc
from google.protobuf import message_factory

from good_server import LIMIT, QuietServer
from oip_conformance import rpc as rpc_
from oip_conformance.tensors import pack, unpack
from oip_conformance.wire import JSON_LENGTH, Connection

SCHEMA = rpc_.Schema()


@dataclasses.dataclass
class Fault:
    name: str
    checks: list  # identifiers of checks, each of which has to fail
    request: object = None  # (Exchange) -> None: changes the request, or sets a reply
    response: object = None  # (Exchange) -> None: changes the reply
    call: object = None  # (Call) -> None: changes a gRPC request
    answer: object = None  # (Call, message) -> message: changes a gRPC answer
    status: object = None  # (Call, code) -> code: changes a gRPC status
    closes: bool = False
    reverses: bool = False  # answers pipelined requests last first


FAULTS: dict[str, Fault] = {}


def fault(name, *checks, **fields):
    assert name not in FAULTS and checks, name
    FAULTS[name] = Fault(name, list(checks), **fields)


def hook(kind, name, *checks, **fields):
    """A decorator that registers a function as the fault's hook."""
    def register(function):
        fault(name, *checks, **{kind: function}, **fields)
        return function
    return register


# --- HTTP ---


@dataclasses.dataclass
class Exchange:
    method: str
    path: str
    headers: list
    body: bytes
    status: int = 0
    reply_headers: list = dataclasses.field(default_factory=list)
    reply: bytes | None = None

    def header(self, name):
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def drop(self, name):
        self.headers = [(key, value) for key, value in self.headers if key.lower() != name.lower()]

    def reply_header(self, name):
        return next((value for key, value in self.reply_headers if key.lower() == name.lower()), None)

    def set_reply_header(self, name, value):
        self.reply_headers = [(key, old) for key, old in self.reply_headers if key.lower() != name.lower()]
        if value is not None:
            self.reply_headers.append((name, str(value)))

    def refuse(self, status=400):
        self.status, self.reply = status, json.dumps({"error": "refused"}).encode()
        self.reply_headers = [("Content-Type", "application/json")]

    @property
    def infers(self):
        return self.path.endswith("/infer")

    def edit_request(self, edit):
        """Applies `edit` to the request's object, if it is one in JSON."""
        try:
            length = int(self.header(JSON_LENGTH) or len(self.body))
            request = json.loads(self.body[:length])
            assert isinstance(request, dict) and self.header("content-encoding") is None
        except (ValueError, RecursionError, AssertionError):
            return
        edit(request)
        text = json.dumps(request).encode()
        self.body = text + self.body[length:]
        if self.header(JSON_LENGTH):
            self.drop(JSON_LENGTH)
            self.headers.append(("Inference-Header-Content-Length", str(len(text))))

    def edit_reply(self, edit):
        """Applies `edit` to the reply's object and its list of binary data; it may answer another list."""
        if self.reply_header("content-encoding") or not self.reply:
            return
        length = self.reply_header(JSON_LENGTH)
        answer = json.loads(self.reply[:int(length)] if length else self.reply)
        blobs = {}
        at = int(length or 0)
        for output in answer.get("outputs", []) if isinstance(answer, dict) else []:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is not None:
                blobs[output["name"]] = self.reply[at:at + size]
                at += size
        edit(answer, blobs)
        text = json.dumps(answer).encode()
        outputs = answer.get("outputs", []) if isinstance(answer, dict) else []
        self.reply = text + b"".join(blobs[output["name"]] for output in outputs if output["name"] in blobs)
        if length:
            self.set_reply_header("Inference-Header-Content-Length", len(text))


def on_infer(name, *checks):
    """A fault of what inference answers: a function of its object and its binary data by name."""
    def register(edit):
        def response(exchange):
            if exchange.infers and exchange.status == 200:
                exchange.edit_reply(edit)
        fault(name, *checks, response=response)
        return edit
    return register


def on_infer_request(name, *checks):
    """A fault of how a request of inference is read: a function of its object."""
    def register(edit):
        def request(exchange):
            if exchange.infers:
                exchange.edit_request(edit)
        fault(name, *checks, request=request)
        return edit
    return register


def on_answer(name, path, *checks):
    """A fault of what a path that ends so answers: a function of the object."""
    def register(edit):
        def response(exchange):
            if exchange.path.endswith(path) and exchange.status == 200:
                exchange.edit_reply(lambda answer, _: edit(answer))
        fault(name, *checks, response=response)
        return edit
    return register


@on_infer("id_not_echoed", "http.infer.id", "http.binary.id", "http.pipelining")
def _(answer, _):
    answer.pop("id", None)


@on_infer("outputs_reordered", "http.infer.outputs.order", "http.infer.outputs.all.order")
def _(answer, _):
    answer["outputs"].reverse()


@hook("response", "binary_data_reordered", "http.binary.order", "http.binary.output.all")
def _(exchange):
    if length := exchange.reply_header(JSON_LENGTH):
        at = int(length)
        middle = at + (len(exchange.reply) - at) // 2
        exchange.reply = exchange.reply[:at] + exchange.reply[middle:] + exchange.reply[at:middle]


@on_infer("binary_size_off_by_one", "http.binary.output", "http.binary.output.all", "http.raw")
def _(answer, _):
    for output in answer["outputs"]:
        if "binary_data_size" in output.get("parameters", {}):
            output["parameters"]["binary_data_size"] += 1


@on_infer("model_version_as_number", "http.infer.model_version")
def _(answer, _):
    answer["model_version"] = int(answer["model_version"])


@on_infer("model_name_missing", "http.infer.model_name")
def _(answer, _):
    answer.pop("model_name")


@on_infer("null_for_what_is_missing", "http.infer.types")
def _(answer, _):
    answer.setdefault("parameters", None)


@on_infer("bytes_without_lengths", "http.binary.datatype.BYTES")
def _(answer, blobs):
    for output in answer["outputs"]:
        if output["datatype"] == "BYTES" and output["name"] in blobs:
            blobs[output["name"]] = b"".join(unpack("BYTES", blobs[output["name"]]))
            output["parameters"]["binary_data_size"] = len(blobs[output["name"]])


@on_infer("big_endian", "http.binary.datatype.INT32", "http.binary.datatype.FP64", "http.binary.datatype.UINT16")
def _(answer, blobs):
    size = {"INT32": 4, "FP64": 8, "UINT16": 2}
    for output in answer["outputs"]:
        if (width := size.get(output["datatype"])) and output["name"] in blobs:
            blob = blobs[output["name"]]
            blobs[output["name"]] = b"".join(blob[at:at + width][::-1] for at in range(0, len(blob), width))


@on_infer("integers_as_doubles", "http.datatype.INT64", "http.datatype.UINT64")
def _(answer, _):
    for output in answer["outputs"]:
        if output["datatype"] in ("INT64", "UINT64") and "data" in output:
            output["data"] = [int(float(value)) for value in output["data"]]


@on_infer("booleans_as_numbers", "http.datatype.BOOL")
def _(answer, _):
    for output in answer["outputs"]:
        if output["datatype"] == "BOOL" and "data" in output:
            output["data"] = [int(value) for value in output["data"]]


@on_infer("integers_with_fraction", "http.datatype.INT32")
def _(answer, _):
    for output in answer["outputs"]:
        if output["datatype"] == "INT32" and "data" in output:
            output["data"] = [float(value) for value in output["data"]]


@on_infer("text_not_utf8", "http.datatype.BYTES")
def _(answer, _):
    for output in answer["outputs"]:
        if output["datatype"] == "BYTES" and "data" in output:
            output["data"] = [text.encode().decode("latin-1") for text in output["data"]]


@on_infer("elements_reversed", "http.data.row_major", "http.data.nested", "http.infer")
def _(answer, _):
    for output in answer["outputs"]:
        if "data" in output:
            output["data"].reverse()


@on_infer("shape_flattened", "http.infer", "http.data.row_major", "http.binary.output")
def _(answer, _):
    for output in answer["outputs"]:
        size = 1
        for dim in output["shape"]:
            size *= dim
        output["shape"] = [size]


@on_infer("only_the_first_output", "http.infer.outputs.all", "http.infer", "http.binary.output.all")
def _(answer, blobs):
    del answer["outputs"][1:]
    for name in [name for name in blobs if name != answer["outputs"][0]["name"]]:
        del blobs[name]


@on_infer_request("all_outputs_always", "http.infer.outputs.one")
def _(request):
    request.pop("outputs", None)


@on_infer_request("binary_data_output_ignored", "http.binary.output.all", "http.binary.output.json_input")
def _(request):
    request.get("parameters", {}).pop("binary_data_output", None)


@on_infer_request("binary_data_not_overriding", "http.binary.output.override")
def _(request):
    if request.get("parameters", {}).get("binary_data_output"):
        for output in request.get("outputs", []):
            output.get("parameters", {}).pop("binary_data", None)


@on_infer_request("inputs_by_place", "http.infer.inputs.order")
def _(request):
    names = ["INPUT0", "INPUT1"]
    if sorted(entry.get("name", "") for entry in request["inputs"] if isinstance(entry, dict)) == names:
        for name, entry in zip(names, request["inputs"]):
            entry["name"] = name


@on_infer_request("datatypes_in_any_case", "http.error.datatype.case")
def _(request):
    for entry in request.get("inputs", []):
        if isinstance(entry, dict) and isinstance(entry.get("datatype"), str):
            entry["datatype"] = entry["datatype"].upper()


@on_infer_request("short_data_padded", "http.error.data.short")
def _(request):
    for entry in request.get("inputs", []):
        if isinstance(entry, dict) and entry.get("shape") == [1, 4] and isinstance(entry.get("data"), list):
            entry["data"] += [0.0] * (4 - len(entry["data"]))


@on_infer_request("long_data_cut", "http.error.data.long")
def _(request):
    for entry in request.get("inputs", []):
        if isinstance(entry, dict) and entry.get("shape") == [1, 4] and isinstance(entry.get("data"), list):
            del entry["data"][4:]


@on_infer_request("unknown_outputs_ignored", "http.error.outputs.unknown")
def _(request):
    if isinstance(request.get("outputs"), list):
        request["outputs"] = [entry for entry in request["outputs"] if isinstance(entry, str) or entry["name"] != "NO_SUCH_OUTPUT"]
        if not request["outputs"]:
            del request["outputs"]


@on_infer_request("parameters_refused", "http.parameters")
def _(request):
    if "my_number" in request.get("parameters", {}):
        request["inputs"] = None


@on_infer_request("classification_ignored", "http.classification", "http.classification.batch", "http.classification.one")
def _(request):
    for output in request.get("outputs") or []:
        if isinstance(output, dict):
            output.get("parameters", {}).pop("classification", None)


@on_infer_request("shared_memory_offset_ignored", "http.shm.input", "http.shm.error.end", "http.shm.error.negative")
def _(request):
    for entry in [*request.get("inputs", []), *(request.get("outputs") or [])]:
        entry.get("parameters", {}).pop("shared_memory_offset", None)


@on_infer("classes_without_labels", "http.classification", "http.classification.one")
def _(answer, _):
    for output in answer["outputs"]:
        if output["datatype"] == "BYTES" and output["name"] == "SCORES" and "data" in output:
            output["data"] = [text.rsplit(":", 1)[0] for text in output["data"]]


@on_infer("classes_worst_first", "http.classification", "http.classification.batch")
def _(answer, _):
    for output in answer["outputs"]:
        if output["name"] == "SCORES" and "data" in output:
            output["data"].reverse()


@on_infer("shared_memory_output_in_answer", "http.shm.output")
def _(answer, _):
    for output in answer["outputs"]:
        if "shared_memory_region" in output.get("parameters", {}):
            output["data"] = [0.0] * 4


@hook("request", "version_ignored", "http.infer.version", "http.error.version", "http.model.unknown_version")
def _(exchange):
    if "/versions/versions/" in exchange.path:
        head, _, tail = exchange.path.partition("/versions/versions/")
        exchange.path = head + "/versions" + ("/" + tail.partition("/")[2] if "/" in tail else "")


@hook("response", "errors_with_status_200", "http.error.model", "http.error.json", "http.model.unknown")
def _(exchange):
    if exchange.status >= 400:
        exchange.status = 200


@hook("response", "errors_with_status_500", "http.error.status", "http.binary.error.status", "http.error.model.status")
def _(exchange):
    if exchange.status >= 400:
        exchange.status = 500


@hook("response", "unknown_models_with_status_400", "http.error.model.status", "http.model.unknown.status")
def _(exchange):
    if exchange.status == 404:
        exchange.status = 400


@hook("response", "error_key_missing", "http.error.model", "http.error.json", "http.model.unknown")
def _(exchange):
    if exchange.status >= 400:
        exchange.edit_reply(lambda answer, _: answer.update(message=answer.pop("error")))


@hook("response", "errors_as_text", "http.error.model", "http.statistics.unknown")
def _(exchange):
    if exchange.status >= 400:
        exchange.reply = b"Something is wrong"


@hook("response", "no_content_type", "http.server.content_type", "http.infer.content_type", "http.binary.content_type")
def _(exchange):
    exchange.set_reply_header("Content-Type", None)


@hook("response", "live_without_body", "http.health.live.body")
def _(exchange):
    if exchange.path.endswith("/health/live"):
        exchange.reply = b""


@hook("response", "unknown_models_are_ready", "http.health.model.unknown", "http.health.model.unknown.error")
def _(exchange):
    if exchange.path.endswith("/ready"):
        exchange.status = 200


@hook("request", "nested_data_refused", "http.data.nested")
def _(exchange):
    if exchange.infers and b"[[" in exchange.body[:200].replace(b" ", b""):
        exchange.refuse()


@hook("request", "raw_form_refused", "http.raw", "http.raw.fixed")
def _(exchange):
    if exchange.header(JSON_LENGTH) == "0":
        exchange.refuse()


@hook("request", "chunks_refused", "http.chunked")
def _(exchange):
    if exchange.header("x-was-chunked"):
        exchange.refuse(411)


@hook("request", "trailing_bytes_ignored", "http.binary.error.long")
def _(exchange):
    if exchange.body.endswith(b"\0") and len(exchange.body) % 2 != len(exchange.body[:-1]) % 2 and exchange.header(JSON_LENGTH):
        request = json.loads(exchange.body[:int(exchange.header(JSON_LENGTH))]) if exchange.header(JSON_LENGTH).isdigit() else {}
        used = sum(entry.get("parameters", {}).get("binary_data_size", 0) for entry in request.get("inputs", []))
        exchange.body = exchange.body[:int(exchange.header(JSON_LENGTH)) + used] if used else exchange.body


@hook("request", "json_length_counts_compressed_bytes", "http.compression.request.binary.gzip", "http.compression.request.binary.deflate")
def _(exchange):
    if exchange.header("content-encoding") and exchange.header(JSON_LENGTH):
        exchange.refuse()


@hook("response", "reply_json_length_counts_compressed_bytes", "http.compression.response.binary.gzip")
def _(exchange):
    if exchange.reply_header("content-encoding") and exchange.reply_header(JSON_LENGTH):
        exchange.set_reply_header("Inference-Header-Content-Length", len(exchange.reply))


@hook("response", "deflate_without_zlib_header", "http.compression.response.deflate")
def _(exchange):
    if exchange.reply_header("content-encoding") == "deflate":
        exchange.reply = zlib.decompress(exchange.reply)
        packer = zlib.compressobj(wbits=-15)
        exchange.reply = packer.compress(exchange.reply) + packer.flush()


@hook("response", "compressed_unasked", "http.compression.none")
def _(exchange):
    if exchange.infers and not exchange.reply_header("content-encoding"):
        exchange.reply = gzip.compress(exchange.reply)
        exchange.set_reply_header("Content-Encoding", "gzip")


@on_answer("versions_as_numbers", "/models/versions", "http.model.versions")
def _(answer):
    answer["versions"] = [int(version) for version in answer["versions"]]


@on_answer("versions_null", "/models/add_sub", "http.model.versions.type")
def _(answer):
    answer["versions"] = None


@on_answer("batch_dimension_missing", "/models/add_sub", "http.model.tensors.add_sub")
def _(answer):
    for tensor in answer["inputs"] + answer["outputs"]:
        tensor["shape"].pop(0)


@on_answer("datatype_of_the_configuration", "/models/identity_bytes", "http.model.datatypes")
def _(answer):
    answer["inputs"][0]["datatype"] = "STRING"


@on_answer("server_version_as_number", "/v2", "http.server.version")
def _(answer):
    answer["version"] = 1


@on_answer("state_in_lower_case", "/repository/index", "http.repository.index")
def _(answer):
    for entry in answer:
        entry["state"] = entry["state"].lower()


@on_answer("index_of_names_only", "/repository/index", "http.repository.index", "http.repository.index.versions")
def _(answer):
    answer[:] = [{"name": name} for name in {entry["name"] for entry in answer}]


@hook("request", "unload_does_nothing", "http.repository.unload", "http.repository.unload.index", "http.repository.unload.parameters")
def _(exchange):
    if exchange.path.endswith("/unload"):
        exchange.refuse(200)


@hook("request", "ready_of_the_index_ignored", "http.repository.unload.index")
def _(exchange):
    if exchange.path.endswith("/repository/index"):
        exchange.body = b""


@on_answer("inference_count_of_requests", "/add_sub/stats", "http.statistics.items")
def _(answer):
    for entry in answer["model_stats"]:
        entry["inference_count"] = entry["execution_count"]


@on_answer("success_counts_nothing", "/add_sub/stats", "http.statistics.success")
def _(answer):
    answer["model_stats"][0]["inference_stats"]["success"]["count"] = 1


@on_answer("durations_in_seconds", "/add_sub/stats", "http.statistics.types")
def _(answer):
    answer["model_stats"][0]["inference_stats"]["queue"]["ns"] = 0.25


@on_answer("configuration_in_camel_case", "/add_sub/config", "http.config.numbers", "http.config.tensors")
def _(answer):
    answer["maxBatchSize"] = answer.pop("max_batch_size")
    for entry in answer["input"]:
        entry["dataType"] = entry.pop("data_type")


@on_answer("log_level_as_text", "/v2/logging", "http.logging")
def _(answer):
    answer["log_verbose_level"] = str(answer["log_verbose_level"])


@hook("request", "log_settings_not_kept", "http.logging.change")
def _(exchange):
    if exchange.path.endswith("/logging") and exchange.body:
        exchange.method, exchange.body = "GET", b""


@on_answer("trace_rate_as_number", "/trace/setting", "http.trace")
def _(answer):
    answer["trace_rate"] = int(answer["trace_rate"])


@on_answer("regions_not_told", "/systemsharedmemory/status", "http.shm.register")
def _(answer):
    answer.clear()


@on_answer("regions_by_name", "/systemsharedmemory/status", "http.shm.register", "http.shm.unregister")
def _(answer):
    answer[:] = [entry["name"] for entry in answer] or ["none"]


fault("connection_closed_after_each_answer", "http.keep_alive", "http.pipelining", closes=True)
fault("pipelined_answers_out_of_order", "http.pipelining", "http.pipelining.slow", reverses=True)


class ProxyHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = fault = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        replies = [self.exchange()]
        while self.fault.reverses and self.more_is_here():
            self.raw_requestline = self.rfile.readline()
            self.parse_request()
            replies.insert(0, self.exchange())
        for exchange in replies:
            self.send_exchange(exchange)
        if self.fault.closes:
            self.close_connection = True

    do_POST = do_DELETE = do_PUT = do_GET

    def more_is_here(self):
        self.connection.settimeout(0)
        try:
            return bool(self.rfile.peek(1))
        except (BlockingIOError, OSError):
            return bool(select.select([self.connection], [], [], 0)[0])
        finally:
            self.connection.settimeout(None)

    def exchange(self):
        exchange = Exchange(self.command, self.path, [(name, value) for name, value in self.headers.items()
                                                      if name.lower() not in ("host", "content-length", "transfer-encoding", "expect")], b"")
        exchange.body = self.read_body(exchange)
        if self.fault.request:
            self.fault.request(exchange)
        exchange.drop("x-was-chunked")
        if exchange.reply is None:
            with Connection(("127.0.0.1", self.upstream), 60) as connection:
                found = connection.request(exchange.method, exchange.path, exchange.body, exchange.headers)
            exchange.status, exchange.reply = found.status, found.body
            exchange.reply_headers = [(name, value) for name, value in found.headers
                                      if name not in ("content-length", "transfer-encoding", "date", "server", "connection")]
        if self.fault.response:
            self.fault.response(exchange)
        return exchange

    def read_body(self, exchange):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        exchange.headers.append(("X-Was-Chunked", "1"))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send_exchange(self, exchange):
        self.send_response(exchange.status)
        for name, value in exchange.reply_headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(exchange.reply)))
        self.end_headers()
        self.wfile.write(exchange.reply)


# --- gRPC ---


def says_yes(exchange):
    exchange.status, exchange.reply = 200, b"{}"
    exchange.reply_headers = [("Content-Type", "application/json")]


# No faults of a server but two that are none at all: every check has to fail before one of them.
YES = Fault("answers_empty_to_all", [], request=says_yes)
NO = Fault("refuses_all", [], request=lambda exchange: exchange.refuse(500))


@dataclasses.dataclass
class Call:
    method: str
    request: object


def on_grpc(method, name, *checks):
    """A fault of what a method answers: a function of the answer, and of the request."""
    def register(edit):
        def answer(call, message):
            if call.method == method:
                edit(message, call.request)
            return message
        fault(name, *checks, answer=answer)
        return edit
    return register


def on_grpc_request(method, name, *checks):
    def register(edit):
        fault(name, *checks, call=lambda call: edit(call.request) if call.method == method else None)
        return edit
    return register


@on_grpc("ModelInfer", "grpc_id_not_echoed", "grpc.infer.id")
def _(answer, _):
    answer.id = ""


@on_grpc("ModelInfer", "grpc_raw_contents_reordered", "grpc.infer", "grpc.infer.inputs.order")
def _(answer, _):
    raws = list(answer.raw_output_contents)
    del answer.raw_output_contents[:]
    answer.raw_output_contents.extend(reversed(raws))


@on_grpc("ModelInfer", "grpc_outputs_reordered", "grpc.infer.outputs.order", "grpc.infer.outputs.all")
def _(answer, _):
    outputs, raws = list(answer.outputs), list(answer.raw_output_contents)
    del answer.outputs[:], answer.raw_output_contents[:]
    answer.outputs.extend(reversed(outputs))
    answer.raw_output_contents.extend(reversed(raws))


@on_grpc("ModelInfer", "grpc_one_raw_content_for_all", "grpc.infer", "grpc.infer.raw")
def _(answer, _):
    joined = b"".join(answer.raw_output_contents)
    del answer.raw_output_contents[:]
    answer.raw_output_contents.append(joined)


@on_grpc("ModelInfer", "grpc_model_version_missing", "grpc.infer.model_version")
def _(answer, _):
    answer.model_version = ""


@on_grpc("ModelInfer", "grpc_bytes_without_lengths", "grpc.datatype.raw.BYTES")
def _(answer, _):
    for at, output in enumerate(answer.outputs):
        if output.datatype == "BYTES":
            answer.raw_output_contents[at] = b"".join(unpack("BYTES", answer.raw_output_contents[at]))


@on_grpc("ModelInfer", "grpc_narrow_types_as_int32", "grpc.datatype.raw.INT8", "grpc.datatype.raw.INT16", "grpc.datatype.contents.INT16")
def _(answer, _):
    for at, output in enumerate(answer.outputs):
        if output.datatype in ("INT8", "INT16"):
            answer.raw_output_contents[at] = pack("INT32", unpack(output.datatype, answer.raw_output_contents[at]))


@on_grpc_request("ModelInfer", "grpc_version_ignored", "grpc.infer.version", "grpc.error.version")
def _(request):
    request.model_version = ""


@on_grpc_request("ModelInfer", "grpc_outputs_ignored", "grpc.infer.outputs.one", "grpc.error.outputs.unknown")
def _(request):
    del request.outputs[:]


@on_grpc_request("ModelInfer", "grpc_contents_beside_raw_ones_ignored", "grpc.error.raw.and_contents")
def _(request):
    if request.raw_input_contents:
        for entry in request.inputs:
            entry.ClearField("contents")


@on_grpc_request("ModelInfer", "grpc_long_raw_contents_cut", "grpc.error.raw.long")
def _(request):
    for at, raw in enumerate(request.raw_input_contents):
        if request.model_name == "add_sub" and len(raw) == 20:
            request.raw_input_contents[at] = raw[:16]


@on_grpc("ModelMetadata", "grpc_batch_dimension_missing", "grpc.model.tensors.add_sub")
def _(answer, _):
    for tensor in [*answer.inputs, *answer.outputs]:
        del tensor.shape[0]


@on_grpc("ServerReady", "grpc_never_ready", "grpc.health.ready")
def _(answer, _):
    answer.ready = False


@on_grpc("Check", "grpc_health_v1_not_serving", "grpc.health_v1.server", "grpc.health_v1.service")
def _(answer, _):
    answer.status = 2


@on_grpc("ServerReflectionInfo", "grpc_reflection_hides_the_service", "grpc.reflection.services")
def _(answer, _):
    answer.ClearField("list_services_response")


@on_grpc("ModelStatistics", "grpc_statistics_of_nothing", "grpc.statistics")
def _(answer, _):
    for entry in answer.model_stats:
        entry.inference_count = 0


@on_grpc("ModelConfig", "grpc_configuration_without_tensors", "grpc.config")
def _(answer, _):
    del answer.config.input[:]


@on_grpc("LogSettings", "grpc_log_settings_as_text", "grpc.logging")
def _(answer, _):
    answer.settings["log_info"].string_param = "true"


@on_grpc("SystemSharedMemoryStatus", "grpc_regions_without_offset", "grpc.shm.register")
def _(answer, _):
    for entry in answer.regions.values():
        entry.offset = 0


@on_grpc("ModelStreamInfer", "grpc_stream_errors_lost", "grpc.stream.error")
def _(answer, _):
    answer.error_message = ""


@on_grpc("ModelStreamInfer", "grpc_stream_ids_lost", "grpc.stream", "grpc.stream.many")
def _(answer, _):
    answer.infer_response.id = ""


fault("grpc_errors_unknown", "grpc.error.status", "grpc.error.model.status", "grpc.model.unknown",
      status=lambda call, code: grpc.StatusCode.UNKNOWN)
fault("grpc_not_found_as_invalid_argument", "grpc.error.model.status", "grpc.model.unknown.status",
      status=lambda call, code: grpc.StatusCode.INVALID_ARGUMENT)


def grpc_proxy(channel, fault, name):
    """Handlers of one service that pass everything on."""
    handlers = {}
    for method in SCHEMA.service(name).methods:
        kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
        types = [message_factory.GetMessageClass(type_) for type_ in (method.input_type, method.output_type)]
        stub = getattr(channel, kind)(f"/{name}/{method.name}", request_serializer=lambda message: message.SerializeToString(),
                                      response_deserializer=types[1].FromString)
        behaviour = pass_stream if method.server_streaming else pass_unary
        handlers[method.name] = getattr(grpc, kind + "_rpc_method_handler")(
            behaviour(stub, fault, method.name), request_deserializer=types[0].FromString,
            response_serializer=lambda message: message.SerializeToString())
    return grpc.method_handlers_generic_handler(name, handlers)


def pass_unary(stub, fault, name):
    def run(request, context):
        if fault is NO:
            context.abort(grpc.StatusCode.INTERNAL, "refused")
        call = Call(name, request)
        if fault.call:
            fault.call(call)
        try:
            answer = stub(call.request, timeout=60)
        except grpc.RpcError as error:
            context.abort(fault.status(call, error.code()) if fault.status else error.code(), error.details())
        return fault.answer(call, answer) if fault.answer else answer
    return run


def pass_stream(stub, fault, name):
    def run(requests, context):
        if fault is NO:
            context.abort(grpc.StatusCode.INTERNAL, "refused")
        call = stub(requests, timeout=60)
        context.add_callback(call.cancel)
        try:
            for answer in call:
                yield fault.answer(Call(name, None), answer) if fault.answer else answer
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
    return run


class Yes(grpc.GenericRpcHandler):
    """Answers whatever is called, with whatever bytes, by empty messages."""

    def service(self, details):
        name = details.method.rpartition("/")[2]
        if name in ("ModelStreamInfer", "ServerReflectionInfo"):
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: (b"" for _ in requests))
        if name == "Watch":
            return grpc.unary_stream_rpc_method_handler(lambda *_: iter([b""]))
        return grpc.unary_unary_rpc_method_handler(lambda *_: b"")


class FaultyProxy:
    """Runs in threads of this process, before a server's two ports."""

    def __init__(self, http_port, grpc_port, fault):
        handler = type("Bound", (ProxyHandler,), {"upstream": http_port, "fault": fault})
        self.http_server = QuietServer(("127.0.0.1", 0), handler)
        self.http = self.http_server.server_address[1]
        threading.Thread(target=self.http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        options = [("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options)
        self.grpc_server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=options)
        self.grpc_server.add_generic_rpc_handlers(
            [Yes()] if fault is YES else
            [grpc_proxy(self.channel, fault, name) for name in (rpc_.INFERENCE, rpc_.HEALTH, rpc_.REFLECTION)])
        self.grpc = self.grpc_server.add_insecure_port("127.0.0.1:0")
        self.grpc_server.start()

    def close(self):
        self.http_server.shutdown()
        self.http_server.server_close()
        self.grpc_server.stop(None).wait()
        self.channel.close()
