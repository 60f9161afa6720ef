"""`millrace serve` on models of the reference backend, for tests of what it says about itself."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("MILLRACE_BIN", ROOT / "build" / "dev" / "bin" / "millrace"))
GUARD_S = 60  # against hanging

IDENTITY = "reference:identity?type=FP32&shape=4"


def eventually(check, what="it"):
    """What `check` answers once that is true."""
    deadline = time.monotonic() + GUARD_S
    while not (answer := check()):
        assert time.monotonic() < deadline, f"{what} did not happen within {GUARD_S} s"
        time.sleep(0.02)
    return answer


def write_model(folder, name, model=IDENTITY, config=""):
    (folder / name / "1").mkdir(parents=True, exist_ok=True)
    (folder / name / "config.pbtxt").write_text(
        f'backend: "reference"\nmax_batch_size: 8\n{config}\nparameters {{ key: "model" value {{ string_value: "{model}" }} }}\n')


class Server:
    def __init__(self, process, ports):
        self.process = process
        self.http, self.grpc, self.metrics_port = ports

    def request(self, method, path, body=None, headers=()):
        """(status, headers, body) over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http, timeout=GUARD_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def infer(self, model="echo", headers=(), rows=1, **fields):
        tensor = {"name": "input", "shape": [rows, 4], "datatype": "FP32", "data": [float(i) for i in range(4 * rows)]}
        body = json.dumps({"inputs": [tensor], **fields})
        return self.request("POST", f"/v2/models/{model}/infer", body, headers)

    def metrics(self):
        status, headers, body = self.request("GET", "/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return body.decode()

    def counter(self, name, **labels):
        """A sample of the metrics; 0 when it is not there."""
        total = 0.0
        for line in self.metrics().splitlines():
            if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(GUARD_S)


@contextlib.contextmanager
def serving(folder, *options, env=None, **models):
    """Serves the models (name=reference) of a new repository under `folder`."""
    repository = folder / "models"
    for name, model in (models or {"echo": IDENTITY}).items():
        write_model(repository, name, model)
    log = folder / "serve.log"
    with open(log, "w") as output:
        process = subprocess.Popen(
            [BINARY, "serve", repository, "--devices", "host:0", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", *map(str, options)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | (env or {}))
    try:
        found = eventually(lambda: process.poll() is not None or re.search(
            r"serves http://127.0.0.1:(\d+) grpc://127.0.0.1:(\d+) metrics http://127.0.0.1:(\d+)/metrics", log.read_text()), "its start")
        assert process.poll() is None, log.read_text()
        server = Server(process, [int(port) for port in found.groups()])
        server.log = log
        yield server
        assert server.stop() == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
