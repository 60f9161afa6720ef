"""HTTP/1.1 over a socket, byte by byte: nothing is added, repaired or retried."""

import dataclasses
import gzip
import json
import socket
import zlib

from .registry import Failed, expect, shown

JSON_LENGTH = "inference-header-content-length"


@dataclasses.dataclass
class Response:
    status: int
    version: str
    headers: list  # of (name in lower case, value)
    body: bytes  # as sent, without chunked framing
    closes: bool = False  # whether the server ended the body by closing

    def header(self, name):
        values = [value for key, value in self.headers if key == name.lower()]
        return values[0] if values else None

    @property
    def content(self):
        """The body without its content coding."""
        coding = (self.header("content-encoding") or "identity").lower()
        try:
            if coding == "gzip":
                return gzip.decompress(self.body)
            if coding == "deflate":
                return zlib.decompress(self.body)
        except (OSError, EOFError, zlib.error) as error:
            raise Failed(f"a body in {coding}", f"{shown(self.body[:40])}: {error}") from None
        expect(coding == "identity", "Content-Encoding gzip, deflate or none", coding)
        return self.body

    def json(self):
        return parse_json(self.content)


def _no_constant(text):
    raise ValueError(f"{text} is no JSON")


def _no_duplicates(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a name twice among {[name for name, _ in pairs]}")
    return found


def parse_json(content):
    try:
        return json.loads(content.decode(), parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise Failed("a body of JSON", f"{shown(content)}: {error}") from None


def head(method, path, headers):
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


class Connection:
    """One connection. What goes wrong on it is a failure of the check that uses it."""

    def __init__(self, address, timeout):
        self.address = address
        try:
            self.socket = socket.create_connection(address, timeout)
        except OSError as error:
            raise Failed(f"a server at {address[0]}:{address[1]}", error) from None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise Failed("a connection that takes the request", error) from None

    def request(self, method, path, body=b"", headers=()):
        self.send(self.framed(method, path, body, headers))
        return self.response(method)

    def framed(self, method, path, body=b"", headers=()):
        named = {name.lower() for name, _ in headers}
        lines = [] if "host" in named else [("Host", f"{self.address[0]}:{self.address[1]}")]
        if not named & {"content-length", "transfer-encoding"} and (body or method == "POST"):
            lines.append(("Content-Length", len(body)))
        return head(method, path, [*lines, *headers]) + body

    def _receive(self):
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            raise Failed("an answer", f"nothing for {self.socket.gettimeout()} s; before: {shown(self.buffer)}") from None
        except OSError as error:
            raise Failed("an answer", error) from None
        self.buffer += data
        return bool(data)

    def _until(self, mark):
        while mark not in self.buffer:
            expect(self._receive(), "an answer", f"the connection closed after {shown(self.buffer)}")
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def _exactly(self, size):
        while len(self.buffer) < size:
            expect(self._receive(), f"a body of {size} bytes", f"{len(self.buffer)} bytes, then the connection closed")
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def closed(self):
        """Whether the server has closed: waits for that, or for more data."""
        return not self.buffer and not self._receive()

    def response(self, method="GET"):
        while True:
            lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            parts = lines[0].split(" ", 2)
            expect(len(parts) >= 2 and parts[0].startswith("HTTP/1.") and parts[1].isdigit(), "a status line of HTTP/1.1", lines[0])
            if parts[1] != "100":
                break
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            expect(colon and name and name == name.strip(), "a header line NAME: VALUE", line)
            headers.append((name.lower(), value.strip()))
        found = Response(int(parts[1]), parts[0], headers, b"")
        found.body = self._body(found, method)
        return found

    def _body(self, response, method):
        if method == "HEAD" or response.status in (204, 304):
            return b""
        if (response.header("transfer-encoding") or "").lower() == "chunked":
            body = b""
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                body += self._exactly(size)
                expect(self._exactly(2) == b"\r\n", "the end of a chunk", "something else")
            while self._until(b"\r\n"):
                pass
            return body
        length = response.header("content-length")
        if length is not None:
            expect(length.isdigit(), "a number as Content-Length", length)
            return self._exactly(int(length))
        response.closes = True
        while self._receive():
            pass
        body, self.buffer = self.buffer, b""
        return body
