"""Traces that the server exports, as a collector of OTLP over HTTP gets them."""

import collections
import contextlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tritonclient.grpc

from serving import IDENTITY, eventually, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
PHASES = ["receive", "queue", "stage", "copy_in", "compute", "copy_out", "complete", "send"]


class Collector:
    """Listens; answers with what `statuses` says, then with 200."""

    def __init__(self):
        self.spans = []
        self.bodies = []
        self.statuses = collections.deque()
        self.let_go = threading.Event()  # closed, answers wait for it
        self.let_go.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.let_go.wait()
                status = collector.statuses.popleft() if collector.statuses else 200
                collector.bodies.append((self.path, self.headers["Content-Type"], status, body))
                if status == 200:
                    collector.spans += spans_of(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()

    def roots(self):
        return [span for span in self.spans if span["kind"] == 2]

    def traces(self, count):
        """Waits for so many: the root of each, and its phases in the order of their times."""
        eventually(lambda: len(self.roots()) >= count, f"{count} traces")
        roots = self.roots()
        assert len(roots) == count
        return [(root, [span for span in self.spans if span.get("parentSpanId") == root["spanId"]]) for root in roots]


@pytest.fixture
def collector():
    with contextlib.closing(Collector()) as made:
        yield made


def exactly(value, *keys):
    assert set(value) == set(keys), value
    return [value[key] for key in keys]


def attributes_of(listed):
    """As a dict; the values are of the one type that each says it has."""
    found = {}
    for key, value in (exactly(attribute, "key", "value") for attribute in listed):
        (kind, content), = value.items()
        assert isinstance(content, str) and kind in ("stringValue", "intValue"), value
        assert key not in found
        found[key] = int(content) if kind == "intValue" else content
    return found


def spans_of(request):
    """Checks the structure of a request for a collector (ExportTraceServiceRequest in JSON)."""
    resources, = exactly(request, "resourceSpans")
    spans = []
    for resource, scopes in (exactly(entry, "resource", "scopeSpans") for entry in resources):
        assert attributes_of(exactly(resource, "attributes")[0])["service.name"] == "millrace"
        for scope, listed in (exactly(entry, "scope", "spans") for entry in scopes):
            assert scope["name"] == "millrace"
            for span in listed:
                assert set(span) <= {"traceId", "spanId", "parentSpanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes", "status"}
                assert re.fullmatch("[0-9a-f]{32}", span["traceId"]) and int(span["traceId"], 16)
                assert re.fullmatch("[0-9a-f]{16}", span["spanId"]) and int(span["spanId"], 16)
                assert re.fullmatch("[0-9a-f]{16}", span.get("parentSpanId", PARENT))
                for end in ("startTimeUnixNano", "endTimeUnixNano"):
                    assert isinstance(span[end], str)
                    span[end] = int(span[end])
                span["attributes"] = attributes_of(span.get("attributes", []))
                spans.append(span)
    return spans


def check_nested(root, children, phases=PHASES):
    assert [child["name"] for child in children] == phases
    at = root["startTimeUnixNano"]
    for child in children:
        assert child["traceId"] == root["traceId"]
        assert child["kind"] == 1
        assert child["startTimeUnixNano"] == at <= child["endTimeUnixNano"]
        at = child["endTimeUnixNano"]
    assert at == root["endTimeUnixNano"]
    ids = [span["spanId"] for span in [root, *children]]
    assert len(set(ids)) == len(ids)


def context(headers):
    found = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-01", headers["traceresponse"] or "")
    return found and found.groups()


def test_a_request_over_http(tmp_path, collector):
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1) as server:
        status, headers, _ = server.infer(rows=3, id="seven")
        assert status == 200
        (root, children), = collector.traces(1)
    check_nested(root, children)
    assert (root["traceId"], root["spanId"]) == context(headers)
    assert "parentSpanId" not in root and "status" not in root
    assert root["name"] == "infer echo"
    assert root["attributes"] == {
        "millrace.protocol": "http", "millrace.model": "echo", "millrace.version": "1", "millrace.request_id": "seven",
        "millrace.batch_items": 3, "millrace.device": "host:0", "millrace.lane": 0, "http.response.status_code": 200}
    path, kind, _, _ = collector.bodies[0]
    assert (path, kind) == ("/v1/traces", "application/json")


def test_the_times_are_those_of_the_work(tmp_path, collector):
    """A model that takes 50 ms spends them computing, and the second of two waits in the queue for the first."""
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1, slow="reference:busy?type=FP32&shape=4&batch_us=50000") as server:
        assert server.infer("slow")[0] == 200
        (root, children), = collector.traces(1)
    check_nested(root, children)
    took = {child["name"]: child["endTimeUnixNano"] - child["startTimeUnixNano"] for child in children}
    assert took["compute"] >= 50_000_000
    assert root["endTimeUnixNano"] - root["startTimeUnixNano"] == sum(took.values())


def test_a_callers_trace_goes_on(tmp_path, collector):
    """Whoever brings a trace decides whether it is sampled; what is not a trace is as none."""
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1000000) as server:
        server.infer()  # the first of a million
        sampled = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        _, headers, _ = server.infer(headers=sampled)
        assert context(headers)[0] == TRACE and context(headers)[1] != PARENT
        for other in (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE.upper()}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", "nonsense"):
            _, headers, _ = server.infer(headers={"traceparent": other})
            assert "traceresponse" not in headers
        (own, _), (root, children) = collector.traces(2)
    assert own["traceId"] != TRACE
    assert root["traceId"] == TRACE and root["parentSpanId"] == PARENT
    check_nested(root, children)


def test_one_of_so_many_is_traced(tmp_path, collector):
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 10, "--allow-settings") as server:
        for _ in range(40):
            assert server.infer()[0] == 200
        eventually(lambda: server.counter("millrace_traces_total", outcome="exported") == 4)
        assert len(collector.roots()) == 4
        body = json.dumps({"trace_level": ["OFF"]})
        assert server.request("POST", "/v2/trace/setting", body)[0] == 200
        assert "traceresponse" not in server.infer(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})[1]
    assert len(collector.roots()) == 4


def test_requests_that_fail(tmp_path, collector):
    models = {"echo": IDENTITY, "broken": "reference:fail?type=FP32&shape=4&every=1"}
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1, **models) as server:
        answers = [server.infer("broken"), server.infer("nobody"), server.request("POST", "/v2/models/echo/infer", "{")]
        assert [status for status, _, _ in answers] == [500, 404, 400]
        assert all(context(headers) for _, headers, _ in answers)
        traces = collector.traces(3)
    for (root, children), code in zip(traces, (500, 404, 400)):
        assert root["status"]["code"] == 2
        assert root["attributes"]["http.response.status_code"] == code
        assert children == []
    assert "nobody" in traces[1][0]["status"]["message"]


def test_a_request_over_grpc(tmp_path, collector):
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1000000) as server:
        server.infer()  # the first of a million
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}")
        given = tritonclient.grpc.InferInput("input", [1, 4], "FP32")
        given.set_data_from_numpy(np.zeros((1, 4), np.float32))
        client.infer("echo", [given], request_id="g", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        with pytest.raises(tritonclient.grpc.InferenceServerException):
            client.infer("nobody", [given], headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        answers = []
        client.start_stream(lambda result, error: answers.append(error), headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        client.async_stream_infer("echo", [given], request_id="s")
        eventually(lambda: answers)
        client.stop_stream()
        client.close()
        assert answers == [None]
        _, (unary, children), (failed, none), (streamed, of_streamed) = collector.traces(4)
    for root in (unary, failed, streamed):
        assert (root["traceId"], root["parentSpanId"]) == (TRACE, PARENT)
        assert root["attributes"]["millrace.protocol"] == "grpc"
    check_nested(unary, children)
    check_nested(streamed, of_streamed)
    assert unary["attributes"]["rpc.grpc.status_code"] == 0 and unary["attributes"]["millrace.request_id"] == "g"
    assert streamed["attributes"]["millrace.request_id"] == "s"
    assert failed["attributes"]["rpc.grpc.status_code"] == 5 and failed["status"]["code"] == 2 and none == []


def test_grpc_answers_with_its_span(tmp_path, collector):
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1) as server, \
            grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(16)])
        request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
        _, call = stub.ModelInfer.with_call(request)
        (root, _), = collector.traces(1)
    assert dict(call.trailing_metadata())["traceresponse"] == f"00-{root['traceId']}-{root['spanId']}-01"


def test_a_collector_that_is_busy_gets_them_again(tmp_path, collector):
    collector.statuses.extend([503, 429])
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1) as server:
        server.infer()
        collector.traces(1)
        assert [status for _, _, status, _ in collector.bodies] == [503, 429, 200]
        assert len({body for _, _, _, body in collector.bodies}) == 1
        eventually(lambda: server.counter("millrace_traces_total", outcome="exported") == 1)


def test_a_collector_that_refuses_is_not_asked_again(tmp_path, collector):
    collector.statuses.append(400)
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1) as server:
        server.infer()
        eventually(lambda: server.counter("millrace_traces_total", outcome="refused") == 1)
        server.infer()
        collector.traces(1)
        assert [status for _, _, status, _ in collector.bodies] == [400, 200]
        assert "it answers 400" in server.log.read_text()


def test_without_a_collector_requests_are_answered(tmp_path):
    """Nobody listens at that port: requests are answered, and the end does not wait for what cannot be sent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with serving(tmp_path, "--otlp-url", f"http://127.0.0.1:{taken.getsockname()[1]}", "--trace-rate", 1) as server:
            for _ in range(50):
                assert server.infer()[0] == 200
            eventually(lambda: "traces do not reach" in server.log.read_text())
    assert server.log.read_text().count("traces do not reach") == 1


def test_a_collector_that_hangs_holds_up_nothing(tmp_path, collector):
    """Its answer does not come: the queue fills up, what is beyond it is dropped and counted, and every request is answered."""
    collector.let_go.clear()
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1) as server:
        sent = 0
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", server.http)
        tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1.0] * 4}
        body = json.dumps({"inputs": [tensor]})
        while server.counter("millrace_traces_total", outcome="dropped") == 0:
            assert sent < 20000
            for _ in range(500):
                connection.request("POST", "/v2/models/echo/infer", body)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200
                sent += 1
        connection.close()
        dropped = server.counter("millrace_traces_total", outcome="dropped")
        assert sent - dropped >= 4096
        collector.let_go.set()
        # What waited gets there.
        eventually(lambda: server.counter("millrace_traces_total", outcome="exported") + server.counter(
            "millrace_traces_total", outcome="refused") == sent - dropped)


def test_what_is_left_is_exported_at_the_end(tmp_path, collector):
    with serving(tmp_path, "--otlp-url", collector.url, "--trace-rate", 1) as server:
        for _ in range(5):
            server.infer()
    assert len(collector.roots()) == 5


def test_a_wrong_address_is_refused(tmp_path):
    from serving import BINARY
    import subprocess
    (tmp_path / "models").mkdir()
    done = subprocess.run([BINARY, "serve", tmp_path / "models", "--devices", "host:0", "--http-port", "0", "--otlp-url", "localhost:4318"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'expected http://HOST:PORT/v1/traces' in done.stderr
