"""The extensions system_shared_memory and cuda_shared_memory."""

import base64
import contextlib
import ctypes
import mmap
import os
import secrets

from ..client import (expect_binary, expect_message, expect_output, expect_raw, infer_path, infer_request, ok, output_of, read_binary,
                      refused, set_parameters)
from ..registry import SHOULD, Group, NotApplicable, expect, expect_equal
from .http_inference import DIFFERENCE, SUM, A, B

http = Group("system shared memory", "http", "system_shared_memory")
rpc = Group("system shared memory", "grpc", "system_shared_memory")
cuda = Group("CUDA shared memory", "http", "cuda_shared_memory")
rpc_cuda = Group("CUDA shared memory", "grpc", "cuda_shared_memory")
SECTION = "Shared-Memory Extension"
SYSTEM = "/v2/systemsharedmemory"
CUDA = "/v2/cudasharedmemory"
SIZE = 4096


class Memory:
    """A POSIX shared-memory object of our own."""

    def __init__(self, folder="/dev/shm"):
        self.key = f"/oip_conformance_{secrets.token_hex(6)}"
        self.path = folder + self.key
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.ftruncate(file, SIZE)
        self.bytes = mmap.mmap(file, SIZE)
        os.close(file)

    def close(self):
        self.bytes.close()
        os.unlink(self.path)


@contextlib.contextmanager
def region(client, name="oip", offset=0, size=SIZE, over_grpc=False):
    """A registered region."""
    host = client.address[0] if client.address else client.target.rpartition(":")[0]
    if host not in ("127.0.0.1", "localhost", "::1", "[::1]"):
        raise NotApplicable("the server is not on this machine")
    memory = Memory()
    try:
        if over_grpc:
            client.rpc.call("SystemSharedMemoryRegister", client.rpc.make(
                "SystemSharedMemoryRegisterRequest", name=name, key=memory.key, offset=offset, byte_size=size))
            client.leftovers.append(lambda: client.rpc.call(
                "SystemSharedMemoryUnregister", client.rpc.make("SystemSharedMemoryUnregisterRequest", name=name)))
        else:
            ok(client.post(f"{SYSTEM}/region/{name}/register", {"key": memory.key, "offset": offset, "byte_size": size}))
            client.leftovers.append(lambda: client.post(f"{SYSTEM}/region/{name}/unregister"))
        yield memory
    finally:
        memory.close()


def status(client, path="/status"):
    found = client.get_json(SYSTEM + path)
    expect(isinstance(found, list) and all(isinstance(entry, dict) for entry in found), "a list of objects", found)
    return found


def placed(name, offset, size):
    return {"shared_memory_region": name, "shared_memory_offset": offset, "shared_memory_byte_size": size}


def shared_request(name, at_b=16, **fields):
    """The addition with A at offset 0 and B at 16 of a region."""
    request = infer_request([A, B], **fields)
    for entry, offset in zip(request["inputs"], (0, at_b)):
        del entry["data"]
        entry["parameters"] = placed(name, offset, 16)
    return request


@http.check("http.shm.register", SECTION + ": Register", "a region that is registered is told by status: name, key, offset, byte_size")
def _(client):
    with region(client, offset=64, size=1024) as memory:
        found = [entry for entry in status(client) if entry.get("name") == "oip"]
        expect(found == [{"name": "oip", "key": memory.key, "offset": 64, "byte_size": 1024}],
               {"name": "oip", "key": memory.key, "offset": 64, "byte_size": 1024}, found)


@http.check("http.shm.status", SECTION + ": Status", "the status of one region, by its name")
def _(client):
    with region(client, "one"), region(client, "two"):
        expect_equal([entry.get("name") for entry in status(client, "/region/two/status")], ["two"], "the regions")


@http.check("http.shm.status.unknown", SECTION + ": Status", "the status of a region that is not registered is an HTTP error")
def _(client):
    refused(client.get(SYSTEM + "/region/no_such_region/status"))


@http.check("http.shm.unregister", SECTION + ": Unregister", "a region that is unregistered is gone")
def _(client):
    with region(client):
        ok(client.post(SYSTEM + "/region/oip/unregister"))
        expect(all(entry.get("name") != "oip" for entry in status(client)), "no region oip", status(client))


@http.check("http.shm.unregister.all", SECTION + ": Unregister", "without a name, all are")
def _(client):
    with region(client, "one"), region(client, "two"):
        ok(client.post(SYSTEM + "/unregister"))
        expect_equal(status(client), [], "the regions")


@http.check("http.shm.input", SECTION, "inputs are read from a region, at their offsets", "add_sub")
def _(client):
    with region(client) as memory:
        memory.bytes[0:16], memory.bytes[16:32] = A.raw, B.raw
        request = shared_request("oip", parameters={"binary_data_output": True})
        answer, blobs = read_binary(client.post(infer_path("add_sub"), request))
        expect_binary(answer, blobs, DIFFERENCE)


@http.check("http.shm.input.offset", SECTION, "an offset of the region and one of the input add up", "add_sub")
def _(client):
    with region(client, offset=512, size=1024) as memory:
        memory.bytes[512:528], memory.bytes[528:544] = A.raw, B.raw
        expect_output(ok(client.post(infer_path("add_sub"), shared_request("oip"))).json(), DIFFERENCE)


@http.check("http.shm.input.default", SECTION, "the offset defaults to 0", "add_sub")
def _(client):
    with region(client) as memory:
        memory.bytes[0:16], memory.bytes[16:32] = A.raw, B.raw
        request = shared_request("oip")
        del request["inputs"][0]["parameters"]["shared_memory_offset"]
        expect_output(ok(client.post(infer_path("add_sub"), request)).json(), DIFFERENCE)


@http.check("http.shm.output", SECTION, "an output is written to a region, and its data is not in the answer", "add_sub")
def _(client):
    with region(client) as memory:
        memory.bytes[0:16], memory.bytes[16:32] = A.raw, B.raw
        outputs = [{"name": "SUM", "parameters": placed("oip", 128, 16)}]
        output = output_of(ok(client.post(infer_path("add_sub"), shared_request("oip", outputs=outputs))).json(), "SUM")
        expect("data" not in output, "no data in the answer", output)
        expect_equal(output.get("shape"), [1, 4], "the shape")
        expect_raw(memory.bytes[128:144], SUM)
        expect_equal(memory.bytes[144:160], bytes(16), "what follows: still")


@http.check("http.shm.output.named", SECTION, "the answer names region and size of such an output", "add_sub", level=SHOULD)
def _(client):
    with region(client):
        outputs = [{"name": "SUM", "parameters": placed("oip", 128, 16)}]
        answer = ok(client.post(infer_path("add_sub"), infer_request([A, B], outputs=outputs))).json()
        found = output_of(answer, "SUM").get("parameters", {})
        expect(found.get("shared_memory_region") == "oip" and found.get("shared_memory_byte_size") == 16, "oip, 16 bytes", found)


def refused_use(identifier, requirement, edit):
    def run(client):
        with region(client, size=1024):
            request = shared_request("oip")
            edit(request["inputs"][0])
            refused(client.post(infer_path("add_sub"), request))
    http.check(f"http.shm.error.{identifier}", SECTION, requirement, "add_sub", run=run)


refused_use("data", "data beside a region is refused", lambda entry: entry.update(data=[1.0, 2.0, 3.0, 4.0]))
refused_use("region", "a region that is not registered is refused", lambda entry: entry["parameters"].update(shared_memory_region="none"))
refused_use("end", "an offset past the region's end is refused", lambda entry: entry["parameters"].update(shared_memory_offset=1016))
refused_use("overflow", "an offset that overflows is refused", lambda entry: entry["parameters"].update(shared_memory_offset=(1 << 63) - 8))
refused_use("negative", "a negative offset is refused", lambda entry: entry["parameters"].update(shared_memory_offset=-16))
refused_use("size", "a size other than the tensor's is refused", lambda entry: entry["parameters"].update(shared_memory_byte_size=8))
refused_use("size.missing", "a region without a size is refused", lambda entry: entry["parameters"].pop("shared_memory_byte_size"))
refused_use("region.missing", "a size without a region is refused", lambda entry: entry["parameters"].pop("shared_memory_region"))


@http.check("http.shm.error.output", SECTION, "an output that does not fit its place is refused", "add_sub")
def _(client):
    with region(client, size=1024) as memory:
        for place in (placed("oip", 1016, 16), placed("oip", 0, 8)):
            refused(client.post(infer_path("add_sub"), infer_request([A, B], outputs=[{"name": "SUM", "parameters": place}])))
        expect_equal(memory.bytes[0:8], bytes(8), "the region: still")


@http.check("http.shm.error.key", SECTION + ": Register", "a key that names no object is refused")
def _(client):
    refused(client.post(SYSTEM + "/region/oip/register", {"key": "/no_such_object", "offset": 0, "byte_size": 64}))


@http.check("http.shm.error.object", SECTION + ": Register", "a region that reaches past its object is refused")
def _(client):
    with region(client) as memory:
        for offset, size in ((0, SIZE * 1024), (1 << 62, 64), (SIZE, 64)):
            refused(client.post(SYSTEM + "/region/oip2/register", {"key": memory.key, "offset": offset, "byte_size": size}))


@http.check("http.shm.error.twice", SECTION + ": Register", "a name in use is refused for another region", level=SHOULD)
def _(client):
    with region(client) as memory:
        refused(client.post(SYSTEM + "/region/oip/register", {"key": memory.key, "offset": 64, "byte_size": 64}))


@http.check("http.shm.error.body", SECTION + ": Register", "a registration without key or byte_size is refused")
def _(client):
    refused(client.post(SYSTEM + "/region/oip/register", {"offset": 0, "byte_size": 64}))
    refused(client.post(SYSTEM + "/region/oip/register", {"key": "/x", "offset": 0}))


def grpc_request(client, name):
    request = client.infer_message("add_sub", [A, B])
    del request.raw_input_contents[:]
    for entry, offset in zip(request.inputs, (0, 16)):
        set_parameters(entry.parameters, placed(name, offset, 16))
    return request


@rpc.check("grpc.shm.register", SECTION + ": Register", "register and status over gRPC")
def _(client):
    with region(client, over_grpc=True, offset=64, size=1024) as memory:
        found = client.rpc.call("SystemSharedMemoryStatus").regions
        expect("oip" in found, "a region oip", sorted(found))
        shown = found["oip"].name, found["oip"].key, found["oip"].offset, found["oip"].byte_size
        expect_equal(shown, ("oip", memory.key, 64, 1024), "the region")


@rpc.check("grpc.shm.infer", SECTION, "inputs and outputs in a region over gRPC; the raw content of such an output is empty", "add_sub")
def _(client):
    with region(client, over_grpc=True) as memory:
        memory.bytes[0:16], memory.bytes[16:32] = A.raw, B.raw
        expect_message(client.rpc.call("ModelInfer", grpc_request(client, "oip")), DIFFERENCE)
        request = grpc_request(client, "oip")
        set_parameters(request.outputs.add(name="SUM").parameters, placed("oip", 128, 16))
        response = client.rpc.call("ModelInfer", request)
        expect(not any(response.raw_output_contents), "no data in the answer", response.raw_output_contents)
        expect_raw(memory.bytes[128:144], SUM)


@rpc.check("grpc.shm.unregister", SECTION + ": Unregister", "unregister over gRPC; afterwards its use is refused", "add_sub")
def _(client):
    with region(client, over_grpc=True):
        client.rpc.call("SystemSharedMemoryUnregister", client.rpc.make("SystemSharedMemoryUnregisterRequest", name="oip"))
        client.rpc.refused("ModelInfer", grpc_request(client, "oip"), ("INVALID_ARGUMENT", "NOT_FOUND"))


@rpc.check("grpc.shm.error.key", SECTION + ": Register", "a key that names no object is refused")
def _(client):
    request = client.rpc.make("SystemSharedMemoryRegisterRequest", name="oip", key="/no_such_object", byte_size=64)
    client.rpc.refused("SystemSharedMemoryRegister", request, ("INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"))


HANDLE_BYTES = 64


class Driver:
    """What is needed of CUDA's driver library, which is wherever a GPU can be used."""

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotApplicable(f"needs a GPU: {error}") from None
        self.call("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    def call(self, name, *arguments):
        error = getattr(self.library, name)(*arguments)
        if error != 0:
            text = ctypes.c_char_p()
            self.library.cuGetErrorName(error, ctypes.byref(text))
            raise NotApplicable(f"needs a GPU: {name}: {(text.value or b'').decode() or error}")


@contextlib.contextmanager
def device_memory(size):
    """Memory of GPU 0: functions that write and read it, and its IPC handle."""
    driver = Driver()
    address = ctypes.c_uint64()
    driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))

    def at(offset):
        return ctypes.c_uint64(address.value + offset)
    try:
        def write(offset, data):
            driver.call("cuMemcpyHtoD_v2", at(offset), ctypes.c_char_p(bytes(data)), ctypes.c_size_t(len(data)))

        def read(offset, length):
            data = ctypes.create_string_buffer(length)
            driver.call("cuMemcpyDtoH_v2", data, at(offset), ctypes.c_size_t(length))
            return data.raw
        handle = ctypes.create_string_buffer(HANDLE_BYTES)
        driver.call("cuIpcGetMemHandle", handle, at(0))
        yield write, read, handle.raw
    finally:
        driver.library.cuMemFree_v2(at(0))


def register_cuda(client, handle, size):
    body = {"raw_handle": {"b64": base64.b64encode(handle).decode()}, "device_id": 0, "byte_size": size}
    ok(client.post(CUDA + "/region/oip_cuda/register", body))
    client.leftovers.append(lambda: client.post(CUDA + "/region/oip_cuda/unregister"))


@cuda.check("http.cuda.status", SECTION + ": CUDA Shared Memory", "GET v2/cudasharedmemory/status answers a list")
def _(client):
    found = client.get_json(CUDA + "/status")
    expect(isinstance(found, list), "a list", found)


@cuda.check("http.cuda.error.handle", SECTION + ": CUDA Shared Memory", "a handle that is none is refused")
def _(client):
    for text in ("", "no base64!", base64.b64encode(bytes(64)).decode()):
        body = {"raw_handle": {"b64": text}, "device_id": 0, "byte_size": 64}
        refused(client.post(CUDA + "/region/oip_cuda/register", body))


@cuda.check("http.cuda.register", SECTION + ": CUDA Shared Memory", "a region that is registered is told by status: name, device_id, byte_size")
def _(client):
    with device_memory(SIZE) as (_, _, handle):
        register_cuda(client, handle, SIZE)
        found = client.get_json(CUDA + "/region/oip_cuda/status")
        expect(found == [{"name": "oip_cuda", "device_id": 0, "byte_size": SIZE}], f"oip_cuda on device 0, {SIZE} bytes", found)
        ok(client.post(CUDA + "/region/oip_cuda/unregister"))
        expect_equal(client.get_json(CUDA + "/status"), [], "the regions")


@cuda.check("http.cuda.infer", SECTION, "inputs and outputs in memory of a GPU", "add_sub")
def _(client):
    with device_memory(SIZE) as (write, read, handle):
        register_cuda(client, handle, SIZE)
        write(0, A.raw)
        write(16, B.raw)
        outputs = [{"name": "SUM", "parameters": placed("oip_cuda", 256, 16)}]
        ok(client.post(infer_path("add_sub"), shared_request("oip_cuda", outputs=outputs)))
        expect_raw(read(256, 16), SUM)
        ok(client.post(CUDA + "/region/oip_cuda/unregister"))


@rpc_cuda.check("grpc.cuda.infer", SECTION, "the same over gRPC", "add_sub")
def _(client):
    with device_memory(SIZE) as (write, read, handle):
        client.rpc.call("CudaSharedMemoryRegister", client.rpc.make(
            "CudaSharedMemoryRegisterRequest", name="oip_cuda", raw_handle=handle, device_id=0, byte_size=SIZE))
        write(0, A.raw)
        write(16, B.raw)
        request = grpc_request(client, "oip_cuda")
        set_parameters(request.outputs.add(name="SUM").parameters, placed("oip_cuda", 256, 16))
        client.rpc.call("ModelInfer", request)
        expect_raw(read(256, 16), SUM)
        client.rpc.call("CudaSharedMemoryUnregister", client.rpc.make("CudaSharedMemoryUnregisterRequest", name="oip_cuda"))
