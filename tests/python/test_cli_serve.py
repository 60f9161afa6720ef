"""Settings of `millrace serve`: the command line, the configuration file, and which counts."""

import json
import re

import pytest

from cli_helpers import ROOT, fails, succeeds

# Something else than the default for each field; whatever has no entry here has none in the program either.
OTHERS = {
    "repositories": ["a", "b"], "devices": ["host", "host:1"], "host": "127.0.0.2", "http_port": 1, "grpc_port": 2, "metrics_port": 3,
    "http_threads": 4, "grpc_queues": 5, "mode": "poll", "poll_interval": "7s", "load": ["x", "y"], "strict": True, "evict_idle": "8s",
    "allow_repository_control": True, "allow_client_shm": True, "allow_settings": True, "tls_cert": "/c.pem", "tls_key": "/k.pem",
    "tls_client_ca": "/a.pem", "token_file": "/t", "control_token_file": "/u", "allow_open": True, "max_connections": 9,
    "max_request": "10KiB", "max_in_flight": "11KiB", "drain_limit": "12s", "access_log": "/log", "otlp_url": "http://127.0.0.1:1/v1/traces",
    "trace_rate": 18, "trace_level": "OFF", "supervise": False, "hang_limit": "13s",
    "start_limit": "14s", "restart_delay": "15ms", "longest_restart_delay": "16ms", "healthy_after": "17s",
    "give_up_after": 19}
NO_FIELD = {"--help", "--config", "--print-config"}


def settings(*arguments, **options):
    return json.loads(succeeds("serve", *arguments, "--print-config", **options))


def as_arguments(field, value):
    option = "--" + field.replace("_", "-")
    if field == "repositories":
        return value
    if isinstance(value, bool):
        return [option] if value else [option.replace("--", "--no-", 1)]
    if isinstance(value, list):
        return [f"{option}={','.join(value)}"] if field == "devices" else [f"{option}={one}" for one in value]
    return [f"{option}={value}"]


def configuration(tmp_path, content):
    file = tmp_path / "server.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_every_option_has_a_field():
    help_text = succeeds("serve", "--help")
    options = set(re.findall(r"^ +(?:-\w,)?(--[\w-]+)", help_text, re.MULTILINE)) - NO_FIELD - {"--log"}
    assert {"--" + field.replace("_", "-") for field in OTHERS} == options | {"--repositories"}


def test_all_of_the_command_line_counts():
    arguments = [word for field, value in OTHERS.items() if field != "repositories" for word in as_arguments(field, value)]
    assert settings(*OTHERS["repositories"], *arguments) == OTHERS


def test_all_of_the_file_counts_and_is_printed_as_it_is(tmp_path):
    others = OTHERS | {"repositories": ["/a", "/b"]}
    assert settings("--config", configuration(tmp_path, others)) == others


@pytest.mark.parametrize("field", OTHERS)
def test_the_command_line_counts_more(tmp_path, field):
    defaults = settings("/somewhere")
    file = configuration(tmp_path, defaults | {field: OTHERS[field]})
    given = as_arguments(field, defaults[field]) if defaults.get(field) else []
    if isinstance(defaults.get(field), bool) and not defaults[field]:
        given = [f"--{field.replace('_', '-')}=false"]
    if given:
        extra = ["--tls-key=/k", "--tls-cert=/c"] if field.startswith("tls_") else []
        assert settings("--config", file, *given, *extra)[field] == defaults[field]


def test_folders_may_follow_any_option():
    assert settings("--devices", "host", "a", "--load", "x", "b")["repositories"] == ["a", "b"]


def test_what_is_printed_means_the_same(tmp_path):
    printed = settings("/models", "--mode=explicit", "--load=a", "--max-request=5MiB")
    assert settings("--config", configuration(tmp_path, printed)) == printed


def test_relative_paths_start_at_the_file(tmp_path):
    file = configuration(tmp_path, {"repositories": ["models", "reference:identity"], "token_file": "tokens", "access_log": "-"})
    found = settings("--config", file, cwd=ROOT)
    assert found["repositories"] == [str(tmp_path / "models"), "reference:identity"]
    assert found["token_file"] == str(tmp_path / "tokens")
    assert found["access_log"] == "-"


def test_sizes_may_be_numbers(tmp_path):
    assert settings("--config", configuration(tmp_path, {"repositories": ["/a"], "max_request": 4096}))["max_request"] == "4096"


def test_the_pages_example_is_taken(tmp_path):
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(), re.DOTALL)
    assert settings("--config", configuration(tmp_path, example))["drain_limit"] == "20s"


@pytest.mark.parametrize("content, parts", [
    ({"http_prot": 1}, ["server.json: unknown field \"http_prot\"", "http_port"]),
    ({"http-port": 1}, ["unknown field", "http_port"]),
    ({"http_port": 65536}, ["server.json: http_port", "65535", "65536"]),
    ({"http_port": "8000"}, ["http_port", "\"8000\""]),
    ({"strict": "yes"}, ["strict", "true or false"]),
    ({"mode": "watch"}, ["mode", "none explicit poll", "watch"]),
    ({"drain_limit": "30 parsecs"}, ["drain_limit", "30 parsecs"]),
    ({"drain_limit": 30}, ["drain_limit", "30"]),
    ({"max_request": "many"}, ["max_request", "many"]),
    ({"max_request": 0}, ["max_request", "0"]),
    ({"repositories": "models"}, ["repositories", "list"]),
    ('{"strict": true, "strict": false}', ["strict", "twice"]),
    ('{"strict": true,\n "load": }', ["server.json", "line 2"]),
    ("[]", ["server.json", "object"]),
])
def test_what_is_wrong_in_a_file_is_said_with_its_place(tmp_path, content, parts):
    file = configuration(tmp_path, content if isinstance(content, str) else {"repositories": ["a"]} | content)
    message = fails(1, "serve", "--config", file, "--print-config")
    assert all(part in message for part in parts), message


def test_what_is_wrong_in_a_file_is_said_though_the_command_line_counts_more(tmp_path):
    assert "http_port" in fails(1, "serve", "a", "--http-port=1", "--config", configuration(tmp_path, {"http_port": -5}))


@pytest.mark.parametrize("arguments, parts", [
    ([], ["REPOSITORY", "repositories"]),
    (["a", "--http-port=-1", "--grpc-port=-1"], ["HTTP", "gRPC", "neither"]),
    (["a", "--tls-cert=x"], ["--tls-cert", "--tls-key"]),
    (["a", "--tls-client-ca=x"], ["--tls-client-ca", "--tls-cert"]),
    (["a", "--max-request=2GiB", "--max-in-flight=1GiB"], ["--max-request", "2GiB", "1GiB"]),
    (["a", "--restart-delay=2min"], ["--restart-delay", "2min", "30s"]),
    (["a", "--drain-limit=soon"], ["--drain-limit", "soon"]),
    (["a", "--mode=watch"], ["--mode", "watch"]),
    (["a", "--http-port=70000"], ["--http-port", "70000"]),
    (["a", "--worker=x"], ["--worker"]),
])
def test_contradictions_are_wrong_usage(arguments, parts):
    message = fails(2 if "--worker=x" not in arguments else 1, "serve", *arguments)
    assert all(part in message for part in parts), message


def test_no_such_file():
    assert "nowhere.json" in fails(1, "serve", "--config", "nowhere.json")
