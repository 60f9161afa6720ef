"""A small server of the whole protocol that computes the fixture models in Python. The suite's own tests run against it,
with one fault planted at a time in front of it. It is slow, and trusts nothing but its own tests.

    python good_server.py     prints {"http": PORT, "grpc": PORT} and serves until its standard input ends
"""

import base64
import binascii
import concurrent.futures
import gzip
import http.server
import json
import mmap
import os
import re
import struct
import sys
import threading
import time
import urllib.parse
import zlib

import grpc
from google.protobuf import json_format, message_factory, text_format

from oip_conformance import rpc as rpc_
from oip_conformance.client import flat
from oip_conformance.fixtures import CLASSES, MODELS, VERSIONS, config, described
from oip_conformance.registry import Failed
from oip_conformance.tensors import CODES, CONTENTS, DATATYPES, RAW_ONLY, count, pack, unpack

LIMIT = 64 << 20
SCHEMA = rpc_.Schema()
EXTENSIONS = ["classification", "parameters", "binary_tensor_data", "model_repository", "model_configuration", "statistics", "trace",
              "logging", "system_shared_memory", "cuda_shared_memory"]


class Refusal(Exception):
    def __init__(self, message, status=400, code=grpc.StatusCode.INVALID_ARGUMENT):
        super().__init__(message)
        self.status, self.code = status, code


def missing(message):
    return Refusal(message, 404, grpc.StatusCode.NOT_FOUND)


def need(condition, message):
    if not condition:
        raise Refusal(message)


def is_int(value):
    return type(value) is int


class Input:
    def __init__(self, name, datatype, shape, raw):
        self.name, self.datatype, self.shape, self.raw = name, datatype, shape, raw


class Service:
    """What both protocols ask."""

    def __init__(self):
        self.lock = threading.RLock()
        self.unloaded = set()
        self.regions = {}
        self.cuda_regions = {}
        self.trace = {"trace_file": "", "trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0"}
        self.log = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
                    "log_format": "default"}
        self.stats = {}

    # --- Models ---

    def versions(self, name):
        return [str(version) for version in VERSIONS] if name == "versions" else ["1"]

    def find(self, name, version=""):
        if name not in MODELS:
            raise missing(f"there is no model {name!r}")
        if version and version not in self.versions(name):
            raise missing(f"model {name!r} has no version {version!r}")
        return version or self.versions(name)[-1]

    def find_ready(self, name, version=""):
        version = self.find(name, version)
        if name in self.unloaded:
            raise Refusal(f"model {name!r} is not loaded", 503, grpc.StatusCode.UNAVAILABLE)
        return version

    def metadata(self, name, version):
        self.find_ready(name, version)
        inputs, outputs, batch, _ = MODELS[name]
        return {"name": name, "versions": self.versions(name), "platform": "python", "inputs": described(inputs, batch),
                "outputs": described(outputs, batch)}

    def config(self, name, version):
        self.find_ready(name, version)
        return text_format.Parse(config(name), SCHEMA.message("inference.ModelConfig")(), descriptor_pool=SCHEMA.pool)

    def index(self, ready):
        for name in MODELS:
            for version in self.versions(name):
                loaded = name not in self.unloaded
                if loaded or not ready:
                    yield {"name": name, "version": version, "state": "READY" if loaded else "UNAVAILABLE",
                           "reason": "" if loaded else "unloaded"}

    def load(self, name, settings):
        self.find(name)
        if "config" in settings:
            try:
                json_format.Parse(settings["config"], SCHEMA.message("inference.ModelConfig")(), descriptor_pool=SCHEMA.pool)
            except (json_format.ParseError, TypeError) as error:
                raise Refusal(f"config: {error}") from None
        self.unloaded.discard(name)

    def unload(self, name):
        self.find(name)
        self.unloaded.add(name)

    # --- Regions ---

    def register(self, name, key, offset, size):
        need(isinstance(key, str) and is_int(offset) and is_int(size) and offset >= 0 and size > 0, "key, offset, byte_size")
        need(name not in self.regions and name not in self.cuda_regions, f"region {name!r} is registered")
        path = "/dev/shm/" + key.lstrip("/")
        need("/" not in key.lstrip("/") and os.path.exists(path), f"there is no object {key!r}")
        need(offset + size <= os.path.getsize(path), f"{key!r} is smaller")
        with open(path, "r+b") as file:
            self.regions[name] = {"name": name, "key": key, "offset": offset, "byte_size": size}, mmap.mmap(file.fileno(), 0)

    def region_status(self, regions, name):
        if name and name not in regions:
            raise missing(f"there is no region {name!r}")
        return [regions[name][0]] if name else [info for info, _ in regions.values()]

    def unregister(self, regions, name):
        if name:
            regions.pop(name, None)
        else:
            regions.clear()

    def place(self, parameters):
        """(memory, start, size) of a tensor in a region, or None."""
        given = {key: value for key, value in parameters.items() if key.startswith("shared_memory_")}
        if not given:
            return None
        name, size = given.get("shared_memory_region"), given.get("shared_memory_byte_size")
        offset = given.get("shared_memory_offset", 0)
        need(isinstance(name, str) and is_int(size) and is_int(offset), "shared_memory_region and shared_memory_byte_size")
        need(name in self.regions, f"there is no region {name!r}")
        info, memory = self.regions[name]
        need(offset >= 0 and size >= 0 and offset + size <= info["byte_size"], f"past the end of region {name!r}")
        return memory, info["offset"] + offset, size

    def read_region(self, parameters):
        place = self.place(parameters)
        return place and bytes(place[0][place[1]:place[1] + place[2]])

    # --- Inference ---

    def infer(self, name, version, inputs, wanted):
        """`inputs` are `Input`s, `wanted` [(output, parameters)] or None. Answers the version, and
        [(output, datatype, shape, bytes or None where they lie in a region, its parameters)]."""
        version = self.find_ready(name, version)
        start = time.monotonic_ns()
        tensors, outputs, batch, _ = MODELS[name]
        values, items = self.check_inputs(tensors, batch, inputs)
        known = [output for output, _, _ in outputs]
        for output, _ in wanted or ():
            need(output in known, f"model {name!r} has no output {output!r}")
        places = {output: self.place(settings) for output, settings in wanted or ()}
        computed = self.compute(name, version, values)
        answer = []
        for output, settings in wanted or [(output, {}) for output in known]:
            datatype, shape, flat_values = computed[output]
            classes = settings.get("classification")
            if classes is not None:
                need(is_int(classes) and classes > 0, "classification is a positive count")
                datatype, shape, flat_values = self.classify(name, shape, flat_values, classes)
            raw, more = pack(datatype, flat_values), {}
            if places.get(output):
                memory, at, size = places[output]
                need(len(raw) <= size, f"{output} does not fit")
                memory[at:at + len(raw)] = raw
                more = {"shared_memory_region": settings["shared_memory_region"], "shared_memory_byte_size": len(raw)}
                raw = None
            answer.append((output, datatype, shape, raw, more))
        self.count_success(name, version, items, time.monotonic_ns() - start)
        return version, answer

    def check_inputs(self, tensors, batch, inputs):
        names = [given.name for given in inputs]
        need(sorted(names) == sorted(name for name, _, _ in tensors), f"expected inputs {[name for name, _, _ in tensors]}, found {names}")
        values, items = {}, None
        for name, datatype, dims in tensors:
            (given,) = [given for given in inputs if given.name == name]
            need(given.datatype == datatype, f"{name}: expected {datatype}, found {given.datatype}")
            need(isinstance(given.shape, list) and all(is_int(size) and 0 <= size < 1 << 32 for size in given.shape), f"{name}: shape")
            full = ([-1] if batch else []) + dims
            need(len(full) == len(given.shape) and all(want in (-1, size) for want, size in zip(full, given.shape)),
                 f"{name}: expected shape {full}, found {given.shape}")
            if batch:
                need(1 <= given.shape[0] <= batch and items in (None, given.shape[0]), f"{name}: a batch of {given.shape[0]}")
                items = given.shape[0]
            try:
                values[name] = given.shape, unpack(datatype, given.raw)
            except ValueError as error:
                raise Refusal(f"{name}: {error}") from None
            need(len(values[name][1]) == count(given.shape), f"{name}: {len(given.raw)} bytes do not fit {given.shape}")
        return values, items or 1

    def compute(self, name, version, values):
        def single(number):
            return struct.unpack("<f", struct.pack("<f", number))[0]
        if name == "add_sub":
            (shape, a), (_, b) = values["INPUT0"], values["INPUT1"]
            return {"SUM": ("FP32", shape, [single(x + y) for x, y in zip(a, b)]),
                    "DIFFERENCE": ("FP32", shape, [single(x - y) for x, y in zip(a, b)])}
        if name == "slow":
            steps, start = values["STEPS"][1][0], values["START"][1][0]
            time.sleep(min(steps / 1e6, 30))
            return {"RESULT": ("FP32", [1], [single(steps + start)])}
        if name == "transpose":
            _, matrix = values["MATRIX"]
            return {"TRANSPOSED": ("INT32", [3, 2], [matrix[row * 3 + column] for column in range(3) for row in range(2)])}
        if name == "row_sum":
            (rows, columns), matrix = values["MATRIX"]
            return {"SUMS": ("FP32", [rows], [single(sum(matrix[row * columns:(row + 1) * columns])) for row in range(rows)])}
        ((shape, given),) = values.values()
        output, datatype, _ = MODELS[name][1][0]
        return {output: (datatype, shape, [value + int(version) for value in given] if name == "versions" else given)}

    def classify(self, name, shape, values, classes):
        width = shape[-1]
        texts = []
        for start in range(0, len(values), width):
            row = values[start:start + width]
            for index in sorted(range(width), key=lambda i: -row[i])[:classes]:
                label = f":{CLASSES[index]}" if name == "classify" else ""
                texts.append(f"{row[index]:f}:{index}{label}".encode())
        return "BYTES", [*shape[:-1], min(classes, width)], texts

    # --- Figures ---

    def count_success(self, name, version, items, ns):
        with self.lock:
            entry = self.stats.setdefault((name, version), {"last": 0, "items": 0, "runs": 0, "ns": 0, "sizes": {}})
            entry["last"] = time.time_ns() // 1_000_000
            entry["items"] += items
            entry["runs"] += 1
            entry["ns"] += ns
            size = entry["sizes"].setdefault(items, [0, 0])
            size[0] += 1
            size[1] += ns

    def statistics(self, name, version):
        if name:
            self.find(name, version)
        for model in [name] if name else MODELS:
            for each in [version] if version else self.versions(model):
                with self.lock:
                    entry = self.stats.get((model, each), {"last": 0, "items": 0, "runs": 0, "ns": 0, "sizes": {}})
                    whole = {"count": entry["runs"], "ns": entry["ns"]}
                    none = {"count": 0, "ns": 0}
                    yield {"name": model, "version": each, "last_inference": entry["last"], "inference_count": entry["items"],
                           "execution_count": entry["runs"],
                           "inference_stats": {"success": whole, "fail": none, "queue": whole, "compute_input": whole,
                                               "compute_infer": whole, "compute_output": whole},
                           "batch_stats": [{"batch_size": size, "compute_input": {"count": runs, "ns": 0},
                                            "compute_infer": {"count": runs, "ns": ns}, "compute_output": {"count": runs, "ns": 0}}
                                           for size, (runs, ns) in entry["sizes"].items()]}

    def change_trace(self, changes):
        for name, value in changes.items():
            need(name in self.trace, f"there is no setting {name!r}")
            need(name != "trace_rate" or isinstance(value, str) and value.isdigit(), f"{name}: {value!r}")
        self.trace.update(changes)

    def change_log(self, changes):
        for name, value in changes.items():
            need(name in self.log and type(value) is type(self.log[name]), f"{name}: {value!r}")
        self.log.update(changes)


# --- HTTP ---


def from_json(datatype, data):
    """The bytes of a tensor given as JSON."""
    need(datatype in DATATYPES, f"there is no datatype {datatype!r}")
    need(datatype not in RAW_ONLY, f"{datatype} has no form in JSON")
    try:
        values = flat(data, "a list")
    except Failed:
        raise Refusal("data is no list") from None
    kinds = {"BOOL": (bool,), "BYTES": (str,), "FP32": (int, float), "FP64": (int, float)}.get(datatype, (int,))
    need(all(type(value) in kinds for value in values), f"an element that is no {datatype}")
    try:
        return pack(datatype, [value.encode() for value in values] if datatype == "BYTES" else values)
    except (struct.error, OverflowError):
        raise Refusal(f"an element that {datatype} cannot hold") from None


def to_json(datatype, raw):
    values = unpack(datatype, raw)
    return [value.decode() for value in values] if datatype == "BYTES" else values


def parse(body, kind):
    try:
        found = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise Refusal(f"the body is no JSON: {error}") from None
    need(isinstance(found, kind), "the body is no JSON object")
    return found


def objects(value, what):
    need(isinstance(value, list) and all(isinstance(entry, dict) for entry in value), f"{what} is no list of objects")
    for entry in value:
        need(isinstance(entry.get("name"), str), f"{what}: a name is missing")
        need(isinstance(entry.get("parameters", {}), dict), f"{what}: parameters")
    return value


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service = None

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.handle_request()

    do_POST = do_DELETE = do_PUT = do_GET

    def handle_request(self):
        try:
            body = self.read_body()
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            for method, pattern, function in ROUTES:
                if method == self.command and (match := re.fullmatch(pattern, path)):
                    return self.answer(200, function(self, body, **{key: value or "" for key, value in match.groupdict().items()}))
            raise missing(f"there is no {self.command} {path}")
        except Refusal as refusal:
            self.answer(refusal.status, {"error": str(refusal)})

    def read_body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        coding = self.headers.get("Content-Encoding", "identity")
        try:
            if coding in ("gzip", "deflate"):
                unpacker = zlib.decompressobj(31 if coding == "gzip" else 15)
                body = unpacker.decompress(body, LIMIT)
                need(unpacker.eof, f"the body is cut, or larger than {LIMIT} bytes")
            else:
                need(coding == "identity", f"the coding {coding!r} is not known")
        except zlib.error as error:
            raise Refusal(f"the body is no {coding}: {error}") from None
        return body

    def answer(self, status, content):
        headers = {"Content-Type": "application/json"}
        if isinstance(content, tuple):
            content, length = content
            headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        wanted = [part.strip() for part in self.headers.get("Accept-Encoding", "").split(",")]
        if status == 200 and body and (coding := next((name for name in ("gzip", "deflate") if name in wanted), None)):
            body = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
            headers["Content-Encoding"] = coding
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # --- What is asked ---

    def live(self, _):
        return {"live": True}

    def ready(self, _):
        return {"ready": True}

    def server(self, _):
        return {"name": "good", "version": "1", "extensions": EXTENSIONS}

    def model_ready(self, _, name, version):
        self.service.find_ready(name, version)
        return {"name": name, "ready": True}

    def model(self, _, name, version):
        return self.service.metadata(name, version)

    def config(self, _, name, version):
        made = self.service.config(name, version)
        found = json_format.MessageToDict(made, preserving_proto_field_name=True, descriptor_pool=SCHEMA.pool)
        for entry in [*found["input"], *found["output"]]:
            entry["dims"] = [int(size) for size in entry["dims"]]
        return found

    def stats(self, _, name="", version=""):
        return {"model_stats": list(self.service.statistics(name, version))}

    def index(self, body):
        return list(self.service.index(bool(parse(body, dict).get("ready")) if body else False))

    def load(self, body, name):
        self.service.load(name, parse(body, dict).get("parameters", {}) if body else {})
        return b""

    def unload(self, _, name):
        self.service.unload(name)
        return b""

    def trace(self, body, name=""):
        if name:
            self.service.find(name)
        if body:
            self.service.change_trace(parse(body, dict))
        return self.service.trace

    def log(self, body):
        if body:
            self.service.change_log(parse(body, dict))
        return self.service.log

    def regions(self, kind):
        return self.service.regions if kind == "system" else self.service.cuda_regions

    def region_status(self, _, kind, region=""):
        return self.service.region_status(self.regions(kind), region)

    def register(self, body, kind, region):
        fields = parse(body, dict)
        if kind == "cuda":
            try:
                handle = base64.b64decode(fields.get("raw_handle", {}).get("b64", ""), validate=True)
            except binascii.Error:
                handle = b""
            raise Refusal(f"a handle of {len(handle)} bytes: there is no GPU")
        self.service.register(region, fields.get("key"), fields.get("offset", 0), fields.get("byte_size"))
        return b""

    def unregister(self, _, kind, region=""):
        self.service.unregister(self.regions(kind), region)
        return b""

    def infer(self, body, name, version):
        length = self.headers.get("Inference-Header-Content-Length")
        need(length is None or length.isdigit() and int(length) <= len(body), f"Inference-Header-Content-Length: {length!r}")
        if length == "0":
            request, inputs, by_default = {}, [self.raw_input(name, body)], True
        else:
            request = parse(body if length is None else body[:int(length)], dict)
            inputs = self.inputs(request, b"" if length is None else body[int(length):])
            settings = request.get("parameters", {})
            need(isinstance(settings, dict), "parameters is no object")
            by_default = settings.get("binary_data_output", False)
        wanted = None
        if request.get("outputs") is not None:
            wanted = [(entry["name"], entry.get("parameters", {})) for entry in objects(request["outputs"], "outputs")]
        version, answered = self.service.infer(name, version, inputs, wanted)
        return self.infer_answer(name, version, request, dict(wanted or ()), by_default, answered)

    def raw_input(self, name, body):
        self.service.find_ready(name)
        tensors, _, batch, _ = MODELS[name]
        need(len(tensors) == 1, f"model {name!r} has {len(tensors)} inputs")
        ((tensor, datatype, dims),) = tensors
        need(datatype != "BYTES", "BYTES")
        elements, rest = divmod(len(body), CODES[datatype][1])
        fixed = count(size for size in dims if size > 0)
        need(rest == 0 and elements % fixed == 0, f"{len(body)} bytes do not fit {dims}")
        return Input(tensor, datatype, ([1] if batch else []) + [elements // fixed if size < 0 else size for size in dims], body)

    def inputs(self, request, binary):
        need("inputs" in request, "inputs is missing")
        found, at = [], 0
        for entry in objects(request["inputs"], "inputs"):
            settings = entry.get("parameters", {})
            need(isinstance(entry.get("datatype"), str), "a datatype is missing")
            raw, size = self.service.read_region(settings), settings.get("binary_data_size")
            if raw is not None:
                need("data" not in entry, "data beside a region")
            elif size is not None:
                need(is_int(size) and 0 <= size <= len(binary) - at and "data" not in entry, f"binary_data_size: {size!r}")
                raw, at = binary[at:at + size], at + size
            else:
                raw = from_json(entry["datatype"], entry.get("data"))
            found.append(Input(entry["name"], entry["datatype"], entry.get("shape"), raw))
        need(at == len(binary), f"{len(binary) - at} bytes that belong to no tensor")
        return found

    def infer_answer(self, name, version, request, wanted, by_default, answered):
        outputs, binary = [], b""
        as_binary = False
        for output, datatype, shape, raw, more in answered:
            entry = {"name": output, "datatype": datatype, "shape": shape}
            if raw is None:
                entry["parameters"] = more
            elif wanted.get(output, {}).get("binary_data", by_default):
                entry["parameters"] = {"binary_data_size": len(raw)}
                binary, as_binary = binary + raw, True
            else:
                need(datatype not in RAW_ONLY, f"{datatype} has no form in JSON")
                entry["data"] = to_json(datatype, raw)
            outputs.append(entry)
        answer = {"model_name": name, "model_version": version, "outputs": outputs}
        if "id" in request:
            answer["id"] = request["id"]
        text = json.dumps(answer).encode()
        return (text + binary, len(text)) if as_binary else text


MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"
REGION = r"/v2/(?P<kind>system|cuda)sharedmemory"
ROUTES = [
    ("GET", "/v2/health/live", Handler.live), ("GET", "/v2/health/ready", Handler.ready), ("GET", "/v2/?", Handler.server),
    ("GET", "/v2/models/stats", Handler.stats), ("GET", MODEL, Handler.model), ("GET", MODEL + "/ready", Handler.model_ready),
    ("GET", MODEL + "/config", Handler.config), ("GET", MODEL + "/stats", Handler.stats), ("POST", MODEL + "/infer", Handler.infer),
    ("POST", "/v2/repository/index", Handler.index), ("POST", "/v2/repository/models/(?P<name>[^/]+)/load", Handler.load),
    ("POST", "/v2/repository/models/(?P<name>[^/]+)/unload", Handler.unload),
    *[(method, "/v2(?:/models/(?P<name>[^/]+))?/trace/setting", Handler.trace) for method in ("GET", "POST")],
    *[(method, "/v2/logging", Handler.log) for method in ("GET", "POST")],
    ("GET", REGION + "(?:/region/(?P<region>[^/]+))?/status", Handler.region_status),
    ("POST", REGION + "/region/(?P<region>[^/]+)/register", Handler.register),
    ("POST", REGION + "(?:/region/(?P<region>[^/]+))?/unregister", Handler.unregister),
]


# --- gRPC ---


def parameters_of(message):
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.items()
            if value.WhichOneof("parameter_choice")}


class Methods:
    def __init__(self, service):
        self.service = service

    def make(self, name, /, **fields):
        return SCHEMA.message(f"inference.{name}")(**fields)

    def ServerLive(self, _):
        return self.make("ServerLiveResponse", live=True)

    def ServerReady(self, _):
        return self.make("ServerReadyResponse", ready=True)

    def ModelReady(self, request):
        try:
            self.service.find_ready(request.name, request.version)
        except Refusal as refusal:
            if refusal.status == 404:
                raise
            return self.make("ModelReadyResponse")
        return self.make("ModelReadyResponse", ready=True)

    def ServerMetadata(self, _):
        return self.make("ServerMetadataResponse", name="good", version="1", extensions=EXTENSIONS)

    def ModelMetadata(self, request):
        return json_format.ParseDict(self.service.metadata(request.name, request.version), self.make("ModelMetadataResponse"))

    def ModelConfig(self, request):
        return self.make("ModelConfigResponse", config=self.service.config(request.name, request.version))

    def ModelStatistics(self, request):
        found = {"model_stats": list(self.service.statistics(request.name, request.version))}
        return json_format.ParseDict(found, self.make("ModelStatisticsResponse"))

    def RepositoryIndex(self, request):
        return json_format.ParseDict({"models": list(self.service.index(request.ready))}, self.make("RepositoryIndexResponse"))

    def RepositoryModelLoad(self, request):
        self.service.load(request.model_name, parameters_of(request.parameters))
        return self.make("RepositoryModelLoadResponse")

    def RepositoryModelUnload(self, request):
        self.service.unload(request.model_name)
        return self.make("RepositoryModelUnloadResponse")

    def SystemSharedMemoryStatus(self, request):
        found = {info["name"]: info for info in self.service.region_status(self.service.regions, request.name)}
        return json_format.ParseDict({"regions": found}, self.make("SystemSharedMemoryStatusResponse"))

    def SystemSharedMemoryRegister(self, request):
        self.service.register(request.name, request.key, request.offset, request.byte_size)
        return self.make("SystemSharedMemoryRegisterResponse")

    def SystemSharedMemoryUnregister(self, request):
        self.service.unregister(self.service.regions, request.name)
        return self.make("SystemSharedMemoryUnregisterResponse")

    def CudaSharedMemoryStatus(self, _):
        return self.make("CudaSharedMemoryStatusResponse")

    def CudaSharedMemoryRegister(self, _):
        raise Refusal("there is no GPU")

    def CudaSharedMemoryUnregister(self, _):
        return self.make("CudaSharedMemoryUnregisterResponse")

    def TraceSetting(self, request):
        if request.model_name:
            self.service.find(request.model_name)
        changes = {name: list(value.value) if name == "trace_level" else "".join(value.value) for name, value in request.settings.items()}
        self.service.change_trace(changes)
        answer = self.make("TraceSettingResponse")
        for name, value in self.service.trace.items():
            answer.settings[name].value.extend(value if isinstance(value, list) else [value])
        return answer

    def LogSettings(self, request):
        self.service.change_log({name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in request.settings.items()})
        answer = self.make("LogSettingsResponse")
        for name, value in self.service.log.items():
            kind = {str: "string_param", bool: "bool_param", int: "uint32_param"}[type(value)]
            setattr(answer.settings[name], kind, value)
        return answer

    def ModelInfer(self, request):
        inputs = self.inputs(request)
        wanted = [(output.name, parameters_of(output.parameters)) for output in request.outputs] or None
        version, answered = self.service.infer(request.model_name, request.model_version, inputs, wanted)
        answer = self.make("ModelInferResponse", model_name=request.model_name, model_version=version, id=request.id)
        for output, datatype, shape, raw, more in answered:
            entry = answer.outputs.add(name=output, datatype=datatype, shape=shape)
            for key, value in more.items():
                setattr(entry.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)
            answer.raw_output_contents.append(raw or b"")
        return answer

    def inputs(self, request):
        raws = list(request.raw_input_contents)
        given_raw, found = bool(raws), []
        for entry in request.inputs:
            raw = self.service.read_region(parameters_of(entry.parameters))
            if raw is not None:
                need(not entry.HasField("contents"), "contents beside a region")
            elif given_raw:
                need(not entry.HasField("contents"), "contents beside raw contents")
                need(raws, "fewer raw contents than inputs")
                raw = raws.pop(0)
            else:
                raw = self.contents(entry)
            found.append(Input(entry.name, entry.datatype, list(entry.shape), raw))
        need(not raws, "more raw contents than inputs")
        return found

    def contents(self, entry):
        need(entry.datatype in CONTENTS, f"{entry.datatype!r} needs raw contents")
        used = [field.name for field, _ in entry.contents.ListFields()]
        need(used in ([], [CONTENTS[entry.datatype]]), f"contents of another datatype: {used}")
        try:
            return pack(entry.datatype, list(getattr(entry.contents, CONTENTS[entry.datatype])))
        except struct.error as error:
            raise Refusal(str(error)) from None

    def ModelStreamInfer(self, requests):
        for request in requests:
            try:
                yield self.make("ModelStreamInferResponse", infer_response=self.ModelInfer(request))
            except Refusal as refusal:
                yield self.make("ModelStreamInferResponse", error_message=str(refusal),
                                infer_response=self.make("ModelInferResponse", id=request.id))

    # --- Other services ---

    def Check(self, request):
        if request.service not in ("", rpc_.INFERENCE):
            raise missing(f"there is no service {request.service!r}")
        return SCHEMA.message("grpc.health.v1.HealthCheckResponse")(status=1)

    def Watch(self, request):
        yield self.Check(request)

    def ServerReflectionInfo(self, requests):
        for request in requests:
            answer = SCHEMA.message("grpc.reflection.v1alpha.ServerReflectionResponse")(original_request=request)
            if request.HasField("list_services"):
                answer.list_services_response.service.add(name=rpc_.INFERENCE)
            else:
                try:
                    file = SCHEMA.pool.FindFileContainingSymbol(request.file_containing_symbol)
                    answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
                except KeyError as error:
                    answer.error_response.error_code, answer.error_response.error_message = 5, str(error)
            yield answer


def guarded(function):
    """A method that answers a `Refusal` by its status."""
    def unary(request, context):
        try:
            return function(request)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
    return unary


def grpc_handlers(methods):
    for name in (rpc_.INFERENCE, rpc_.HEALTH, rpc_.REFLECTION):
        handlers = {}
        for method in SCHEMA.service(name).methods:
            function = getattr(methods, method.name)
            kind = ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
            make = getattr(grpc, kind + "_rpc_method_handler")
            request = message_factory.GetMessageClass(method.input_type)
            behaviour = guarded(function) if kind == "unary_unary" else lambda requests, _, function=function: function(requests)
            handlers[method.name] = make(behaviour, request_deserializer=request.FromString,
                                         response_serializer=lambda message: message.SerializeToString())
        yield grpc.method_handlers_generic_handler(name, handlers)


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        pass  # a client that went away


class GoodServer:
    """Runs in threads of this process."""

    def __init__(self):
        service = Service()
        handler = type("Bound", (Handler,), {"service": service})
        self.http_server = QuietServer(("127.0.0.1", 0), handler)
        self.http = self.http_server.server_address[1]
        self.thread = threading.Thread(target=self.http_server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        self.grpc_server = grpc.server(concurrent.futures.ThreadPoolExecutor(8), options=[
            ("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT)])
        self.grpc_server.add_generic_rpc_handlers(list(grpc_handlers(Methods(service))))
        self.grpc = self.grpc_server.add_insecure_port("127.0.0.1:0")
        self.grpc_server.start()

    def close(self):
        self.http_server.shutdown()
        self.http_server.server_close()
        self.grpc_server.stop(None).wait()


def main():
    server = GoodServer()
    print(json.dumps({"http": server.http, "grpc": server.grpc}), flush=True)
    sys.stdin.read()
    server.close()


if __name__ == "__main__":
    main()
