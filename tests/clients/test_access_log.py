"""The access log: a line of JSON for each request, files that are rotated, and disks that are full."""

import json
import os
import re
import signal

import numpy as np
import pytest
import tritonclient.grpc

from serving import eventually, serving

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_line_for_each_request_over_http(tmp_path):
    log = tmp_path / "access.log"
    with serving(tmp_path, "--access-log", log) as server:
        server.infer(headers={"traceparent": TRACEPARENT})
        server.infer("nob\"ody\\")
        server.request("GET", "/v2/health/live")
        eventually(lambda: len(lines(log)) == 3)
    first, second, third = lines(log)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert first["protocol"] == "http" and first["method"] == "POST" and first["target"] == "/v2/models/echo/infer"
    assert first["model"] == "echo" and first["status"] == 200 and first["traceparent"] == TRACEPARENT
    assert re.fullmatch(r"127\.0\.0\.1:\d+", first["peer"])
    assert first["received_bytes"] > 0 and first["sent_bytes"] > 0 and first["answer_us"] > 0 and first["send_us"] > 0
    assert second["status"] in (400, 404) and "traceparent" not in second
    assert third["target"] == "/v2/health/live" and "model" not in third


def test_a_line_for_each_call_over_grpc(tmp_path):
    log = tmp_path / "access.log"
    with serving(tmp_path, "--access-log", log) as server:
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}")
        given = tritonclient.grpc.InferInput("input", [1, 4], "FP32")
        given.set_data_from_numpy(np.zeros((1, 4), np.float32))
        client.infer("echo", [given], headers={"traceparent": TRACEPARENT})
        with pytest.raises(tritonclient.grpc.InferenceServerException):
            client.infer("nobody", [given])
        client.close()
        eventually(lambda: len(lines(log)) == 2)
    first, second = lines(log)
    assert first["method"] == "ModelInfer" and first["model"] == "echo" and first["status"] == 0 and "error" not in first
    assert first["answer_us"] > 0 and first["send_us"] > 0 and first["traceparent"] == TRACEPARENT
    assert second["status"] == 5 and second["model"] == "nobody" and "nobody" in second["error"]


def test_a_file_that_is_moved_is_followed_by_a_new_one(tmp_path):
    """As a rotation of logs by renaming does it, without telling anyone."""
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with serving(tmp_path, "--access-log", log) as server:
        server.infer()
        eventually(lambda: lines(log))
        log.rename(old)
        sent = 1
        while not log.exists():  # it looks once a second
            assert server.infer()[0] == 200
            sent += 1
            assert sent < 100000
        assert server.infer()[0] == 200
        sent += 1
        eventually(lambda: len(lines(old)) + len(lines(log)) == sent)
    assert lines(log) and lines(old)


def test_a_signal_opens_it_anew(tmp_path):
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with serving(tmp_path, "--access-log", log) as server:
        server.infer()
        eventually(lambda: lines(log))
        log.rename(old)
        server.process.send_signal(signal.SIGHUP)
        eventually(log.exists)
        server.infer("nobody")
        eventually(lambda: lines(log))
    assert [line["status"] for line in lines(old)] == [200]
    assert [line["status"] for line in lines(log)] == [404]


def test_a_full_disk_loses_lines_and_no_requests(tmp_path):
    """The log's path leads to a device that is always full, and then to a file."""
    log, there = tmp_path / "access.log", tmp_path / "there.log"
    os.symlink("/dev/full", log)
    with serving(tmp_path, "--access-log", log) as server:
        for _ in range(100):
            assert server.infer()[0] == 200
        eventually(lambda: "the access log takes no lines" in server.log.read_text())
        log.unlink()
        os.symlink(there, log)
        server.process.send_signal(signal.SIGHUP)
        eventually(there.exists)
        assert server.infer()[0] == 200
        eventually(lambda: lines(there))
        assert len(lines(there)) == 1
        said = server.log.read_text()
        assert said.count("the access log takes no lines") == 1
        assert "the access log lost 100 lines" in said


def test_a_log_that_cannot_be_opened_anew_goes_on(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "access.log"
    with serving(tmp_path, "--access-log", log) as server:
        server.infer()
        moved = tmp_path / "moved"
        folder.rename(moved)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "cannot be opened anew" in server.log.read_text())
        assert server.infer()[0] == 200
        eventually(lambda: len(lines(moved / "access.log")) == 2)
