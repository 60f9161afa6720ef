"""Compressed bodies of requests and of responses."""

import gzip
import json
import zlib

from ..client import binary_request, expect_binary, expect_output, infer_path, infer_request, ok, read_binary, refused
from ..fixtures import identity
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import tensor
from .http_inference import SUM, A, B

http = Group("compression", "http", "compression")
SECTION = "HTTP content codings (RFC 9110)"
LONG = tensor("INPUT0", "FP32", (1, 20_000), [0.0] * 20_000)
ECHO = tensor("OUTPUT0", "FP32", LONG.shape, LONG.values)
CODINGS = {"gzip": gzip.compress, "deflate": zlib.compress}


def request_in(coding):
    def run(client):
        body = CODINGS[coding](json.dumps(infer_request([A, B])).encode())
        expect_output(ok(client.post(infer_path("add_sub"), body, headers=[("Content-Encoding", coding)])).json(), SUM)
    return run


def binary_request_in(coding):
    def run(client):
        answer, blobs = client.infer_binary(identity("FP32"), [LONG], [("Content-Encoding", coding)], CODINGS[coding],
                                            parameters={"binary_data_output": True})
        expect_binary(answer, blobs, ECHO)
    return run


def response_in(coding):
    def run(client):
        body, length = binary_request([LONG])
        headers = [("Inference-Header-Content-Length", length), ("Accept-Encoding", coding)]
        response = ok(client.post(infer_path(identity("FP32")), body, headers=headers))
        expect_equal(response.header("content-encoding"), coding, "the Content-Encoding")
        expect_output(response.json(), ECHO)
    return run


def binary_response_in(coding):
    def run(client):
        response = client.post_binary(identity("FP32"), [LONG], [("Accept-Encoding", coding)], parameters={"binary_data_output": True})
        expect_equal(ok(response).header("content-encoding"), coding, "the Content-Encoding")
        answer, blobs = read_binary(response)
        expect_binary(answer, blobs, ECHO)
    return run


for name in CODINGS:
    http.check(f"http.compression.request.{name}", SECTION, f"a request of JSON in {name} is read", "add_sub", run=request_in(name))
    http.check(f"http.compression.request.binary.{name}", SECTION,
               f"with binary data in {name}, Inference-Header-Content-Length counts bytes of the decompressed body",
               identity("FP32"), run=binary_request_in(name))
    http.check(f"http.compression.response.{name}", SECTION, f"Accept-Encoding: {name} gives a response in {name}", identity("FP32"),
               run=response_in(name))
    http.check(f"http.compression.response.binary.{name}", SECTION,
               f"and with binary data in {name}, the response's JSON length counts decompressed bytes", identity("FP32"),
               run=binary_response_in(name))


@http.check("http.compression.none", SECTION, "without Accept-Encoding nothing is compressed", identity("FP32"))
def _(client):
    response = client.post_binary(identity("FP32"), [LONG], parameters={"binary_data_output": True})
    expect(ok(response).header("content-encoding") in (None, "identity"), "no Content-Encoding", response.header("content-encoding"))


@http.check("http.compression.unwanted", SECTION, "a coding with q=0 is not used", identity("FP32"), level=SHOULD)
def _(client):
    response = client.post_binary(identity("FP32"), [LONG], [("Accept-Encoding", "gzip;q=0, deflate;q=0")])
    expect(ok(response).header("content-encoding") in (None, "identity"), "no Content-Encoding", response.header("content-encoding"))


@http.check("http.compression.broken", SECTION, "a body that is not what Content-Encoding says is refused", "add_sub")
def _(client):
    for coding, body in (("gzip", b"no gzip at all"), ("deflate", b"nor deflate"), ("gzip", gzip.compress(b"x" * 9999)[:-12])):
        refused(client.post(infer_path("add_sub"), body, headers=[("Content-Encoding", coding)]))


@http.check("http.compression.unknown", SECTION, "a coding that is not known is refused", "add_sub")
def _(client):
    refused(client.post(infer_path("add_sub"), b"xxxx", headers=[("Content-Encoding", "no-such-coding")]))


@http.check("http.compression.bomb", SECTION, "a body of 1 GiB of spaces in 1 MB of gzip is refused, and the server goes on", "add_sub",
            level=SHOULD)
def _(client):
    compressor = zlib.compressobj(9, wbits=31)
    spaces = b" " * (1 << 20)
    body = b"".join(compressor.compress(spaces) for _ in range(1024)) + compressor.flush()
    refused(client.post(infer_path("add_sub"), body, headers=[("Content-Encoding", "gzip")]))
    expect_output(client.infer("add_sub", [A, B]), SUM)
