"""HTTP itself: connections and framing."""

import json

from ..client import expect_output, infer_path, infer_request, ok
from ..registry import SHOULD, Group, expect
from ..tensors import tensor
from .http_inference import SUM, A, B

http = Group("HTTP", "http")
SECTION = "HTTP/1.1 (RFC 9112)"
BODY = json.dumps(infer_request([A, B])).encode()
JSON = ("Content-Type", "application/json")


@http.check("http.keep_alive", SECTION, "a connection stays open for further requests", "add_sub")
def _(client):
    with client.connect() as connection:
        for _ in range(3):
            expect_output(ok(connection.request("POST", client.base + infer_path("add_sub"), BODY, [JSON])).json(), SUM)


@http.check("http.keep_alive.error", SECTION, "also after a request that was refused", "add_sub", level=SHOULD)
def _(client):
    with client.connect() as connection:
        connection.request("POST", client.base + infer_path("add_sub"), b"{", [JSON])
        expect_output(ok(connection.request("POST", client.base + infer_path("add_sub"), BODY, [JSON])).json(), SUM)


@http.check("http.close", SECTION, "Connection: close is obeyed", level=SHOULD)
def _(client):
    with client.connect() as connection:
        ok(connection.request("GET", client.base + "/v2/health/live", headers=[("Connection", "close")]))
        expect(connection.closed(), "the connection to close", "more data")


@http.check("http.pipelining", SECTION, "requests sent together are answered in their order", "add_sub")
def _(client):
    with client.connect() as connection:
        path = client.base + infer_path("add_sub")
        bodies = [json.dumps(infer_request([A, B], id=str(number))).encode() for number in range(8)]
        connection.send(b"".join(connection.framed("POST", path, body, [JSON]) for body in bodies))
        ids = [ok(connection.response("POST")).json().get("id") for _ in bodies]
        expect(ids == [str(number) for number in range(8)], [str(number) for number in range(8)], ids)


@http.check("http.pipelining.slow", SECTION, "even when a later one is done first", "slow", "add_sub")
def _(client):
    slow = infer_request([tensor("STEPS", "INT64", (1,), [100_000]), tensor("START", "FP32", (1,), [0.5])], id="slow")
    with client.connect() as connection:
        connection.send(connection.framed("POST", client.base + infer_path("slow"), json.dumps(slow).encode(), [JSON])
                        + connection.framed("POST", client.base + infer_path("add_sub"), BODY, [JSON])
                        + connection.framed("GET", client.base + "/v2/health/live"))
        expect_output(ok(connection.response("POST")).json(), tensor("RESULT", "FP32", (1,), [100_000.5]))
        expect_output(ok(connection.response("POST")).json(), SUM)
        ok(connection.response())


@http.check("http.chunked", SECTION, "a body in chunks is read", "add_sub")
def _(client):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(BODY[at:at + 7]), BODY[at:at + 7]) for at in range(0, len(BODY), 7)) + b"0\r\n\r\n"
    with client.connect() as connection:
        answer = connection.request("POST", client.base + infer_path("add_sub"), chunks, [JSON, ("Transfer-Encoding", "chunked")])
        expect_output(ok(answer).json(), SUM)


@http.check("http.fragments", SECTION, "a request may arrive in pieces of any size", "add_sub")
def _(client):
    with client.connect() as connection:
        framed = connection.framed("POST", client.base + infer_path("add_sub"), BODY, [JSON])
        for at in range(0, len(framed), 11):
            connection.send(framed[at:at + 11])
        expect_output(ok(connection.response("POST")).json(), SUM)


@http.check("http.header_case", SECTION, "names of headers may be in any case", "add_sub")
def _(client):
    with client.connect() as connection:
        answer = connection.request("POST", client.base + infer_path("add_sub"), BODY,
                                    [("cOnTeNt-LeNgTh", len(BODY)), ("CONTENT-TYPE", "application/json")])
        expect_output(ok(answer).json(), SUM)


@http.check("http.content_type", "Inference", "a request of JSON is read whatever its Content-Type, as clients send none", "add_sub",
            level=SHOULD)
def _(client):
    expect_output(ok(client.post(infer_path("add_sub"), BODY)).json(), SUM)


@http.check("http.content_type.binary", "Inference", "also if it says application/octet-stream, as an asyncio client in use does: only a JSON "
            "length makes a body binary", "add_sub", level=SHOULD)
def _(client):
    headers = [("Content-Type", "application/octet-stream")]
    expect_output(ok(client.post(infer_path("add_sub"), BODY, headers=headers)).json(), SUM)


@http.check("http.expect", SECTION, "Expect: 100-continue is answered", "add_sub", level=SHOULD)
def _(client):
    with client.connect() as connection:
        framed = connection.framed("POST", client.base + infer_path("add_sub"), BODY, [JSON, ("Expect", "100-continue")])
        connection.send(framed[:-len(BODY)])
        expect(b" 100 " in connection._until(b"\r\n\r\n"), "100 Continue", "another answer")
        connection.send(BODY)
        expect_output(ok(connection.response("POST")).json(), SUM)


@http.check("http.malformed", SECTION, "what is not HTTP is refused, and the server goes on")
def _(client):
    with client.connect() as connection:
        connection.send(b"NOT HTTP AT ALL\r\n\r\n")
        try:
            connection.socket.recv(1 << 16)
        except OSError:
            pass  # closed without an answer: refused as well
    ok(client.get("/v2/health/live"))


@http.check("http.half_closed", SECTION, "a client that goes away before its body is complete does no harm", "add_sub")
def _(client):
    with client.connect() as connection:
        connection.send(connection.framed("POST", client.base + infer_path("add_sub"), BODY, [JSON])[:-10])
    ok(client.get("/v2/health/live"))
    expect_output(client.infer("add_sub", [A, B]), SUM)


@http.check("http.percent", "HTTP/REST", "percent-encoded characters of a model's name are decoded", "add_sub", level=SHOULD)
def _(client):
    expect_output(ok(client.post("/v2/models/add%5Fsub/infer", BODY, headers=[JSON])).json(), SUM)
