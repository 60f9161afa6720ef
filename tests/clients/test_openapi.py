"""The server against its own description, /openapi.json: schemathesis makes requests of it, good and bad."""

import json
import subprocess
import sys

import openapi_spec_validator
import pytest

from serving import IDENTITY, serving

CHECKS = ["status_code_conformance", "content_type_conformance", "response_schema_conformance", "response_headers_conformance"]
EXAMPLES = 15  # of each operation and phase
TIMEOUT_S = 600


def document(server):
    status, headers, body = server.request("GET", "/openapi.json")
    assert status == 200 and headers["Content-Type"] == "application/json"
    return json.loads(body)


def test_is_valid(tmp_path):
    with serving(tmp_path) as server:
        described = document(server)
    assert described["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(described)


def write_config(folder, known):
    """With models that are there, requests get further than to a 404."""
    config = folder / "schemathesis.toml"
    parameters = '[[operations]]\ninclude-path-regex = "^/v2/models/.*"\nparameters = { "path.model" = "echo", "path.version" = "1" }\n'
    config.write_text(parameters if known else "")
    return config


@pytest.mark.parametrize("allowed, known", [(True, True), (True, False), (False, True)])
def test_the_server_answers_as_it_says(tmp_path, allowed, known):
    """Statuses, types and bodies are those described, and none is 500: with all that clients may be allowed, and with nothing."""
    options = ["--allow-repository-control", "--allow-client-shm", "--allow-settings"] if allowed else []
    with serving(tmp_path, *options) as server:
        url = f"http://127.0.0.1:{server.http}"
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "--config-file", write_config(tmp_path, known), "--no-color", "run", f"{url}/openapi.json",
             "--url", url, "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--mode", "all", "--max-examples",
             str(EXAMPLES), "--generation-deterministic", "--suppress-health-check", "all", "--warnings", "off"],
            cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT_S)
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-10000:]
        assert server.counter("millrace_requests_total", protocol="http", code="500") == 0
        assert server.counter("millrace_requests_total", protocol="http", code="200") > 50
        assert server.infer()[0] == 200
