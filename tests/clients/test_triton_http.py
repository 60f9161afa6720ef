"""tritonclient over HTTP: its blocking, its asynchronous and its asyncio client."""

import asyncio

import numpy as np
import pytest
import tritonclient.http as client_of
import tritonclient.http.aio as aio
import tritonclient.utils.cuda_shared_memory as cuda_shm
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from samples import NO_JSON, TYPES, VALUES, A, B, sample, same


@pytest.fixture
def client(server):
    with client_of.InferenceServerClient(server.http, concurrency=4) as made:
        yield made


def given(name, array, datatype, binary=True):
    made = client_of.InferInput(name, list(array.shape), datatype)
    return made.set_data_from_numpy(array, binary_data=binary)


def addition(binary=True):
    return [given("INPUT0", A, "FP32", binary), given("INPUT1", B, "FP32", binary)]


def test_health(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add_sub")
    assert client.is_model_ready("versions", "1")
    assert not client.is_model_ready("no_such_model")


def test_metadata(client):
    server = client.get_server_metadata()
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(server["extensions"])
    model = client.get_model_metadata("add_sub")
    assert model["inputs"][1] == {"name": "INPUT1", "datatype": "FP32", "shape": [-1, 4]}
    assert client.get_model_metadata("versions")["versions"] == ["1", "3"]
    assert client.get_model_config("add_sub")["max_batch_size"] == 8


@pytest.mark.parametrize("datatype", TYPES)
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
def test_datatypes(client, datatype, binary_in, binary_out):
    if datatype in NO_JSON and not (binary_in and binary_out):
        pytest.skip(f"{datatype} has no form in JSON")
    array = sample(datatype)
    outputs = [client_of.InferRequestedOutput("OUTPUT0", binary_data=binary_out)]
    result = client.infer(f"identity_{datatype.lower()}", [given("INPUT0", array, datatype, binary_in)], outputs=outputs)
    assert same(result.as_numpy("OUTPUT0"), array)


def test_outputs_that_are_not_named_are_binary_and_in_order(client):
    result = client.infer("add_sub", addition(), request_id="7")
    answer = result.get_response()
    assert answer["id"] == "7" and answer["model_name"] == "add_sub" and answer["model_version"] == "1"
    assert [output["name"] for output in answer["outputs"]] == ["SUM", "DIFFERENCE"]
    assert all(output["parameters"]["binary_data_size"] == 16 for output in answer["outputs"])
    assert np.array_equal(result.as_numpy("SUM"), A + B) and np.array_equal(result.as_numpy("DIFFERENCE"), A - B)


def test_outputs_in_the_order_asked_for(client):
    outputs = [client_of.InferRequestedOutput("DIFFERENCE"), client_of.InferRequestedOutput("SUM", binary_data=False)]
    result = client.infer("add_sub", addition(binary=False), outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["DIFFERENCE", "SUM"]
    assert np.array_equal(result.as_numpy("SUM"), A + B) and np.array_equal(result.as_numpy("DIFFERENCE"), A - B)


@pytest.mark.parametrize("version, plus", [("1", 1), ("3", 3)])
def test_versions(client, version, plus):
    array = np.array([[10, 20]], np.int32)
    result = client.infer("versions", [given("INPUT0", array, "INT32")], model_version=version)
    assert np.array_equal(result.as_numpy("OUTPUT0"), array + plus)
    assert result.get_response()["model_version"] == version


@pytest.mark.parametrize("response", [None, "gzip", "deflate"])
@pytest.mark.parametrize("request_", [None, "gzip", "deflate"])
def test_compression(client, request_, response):
    array = np.zeros((2, 5000), np.float32)
    result = client.infer("identity_fp32", [given("INPUT0", array, "FP32")], request_compression_algorithm=request_,
                          response_compression_algorithm=response)
    assert same(result.as_numpy("OUTPUT0"), array)


def test_classification(client):
    result = client.infer("classify", [given("VALUES", VALUES, "FP32")], outputs=[client_of.InferRequestedOutput("SCORES", class_count=2)])
    found = [text.decode().split(":") for text in result.as_numpy("SCORES").flatten()]
    assert [(float(value), index, label) for value, index, label in found] == [(10.0, "2", "plum"), (5.0, "1", "pear")]


def test_parameters(client):
    result = client.infer("add_sub", addition(), parameters={"mine": "x", "number": 3, "flag": True}, priority=1, timeout=30_000_000)
    assert np.array_equal(result.as_numpy("SUM"), A + B)


def test_many_at_once(client):
    calls = [client.async_infer("identity_int32", [given("INPUT0", np.full((1, 3), number, np.int32), "INT32")], request_id=str(number))
             for number in range(32)]
    for number, call in enumerate(calls):
        result = call.get_result()
        assert result.get_response()["id"] == str(number) and (result.as_numpy("OUTPUT0") == number).all()


@pytest.mark.parametrize("model, inputs, text", [
    ("no_such_model", addition(), "no_such_model"), ("add_sub", addition()[:1], "INPUT1"),
    ("add_sub", [given("INPUT0", A, "FP32"), given("INPUT1", np.ones((1, 3), np.float32), "FP32")], "INPUT1"),
    ("add_sub", [given("INPUT0", A, "FP32"), given("INPUT1", B.astype(np.float64), "FP64")], "INPUT1")])
def test_errors_carry_a_status_and_what_is_wrong(client, model, inputs, text):
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, inputs)
    assert error.value.status() == ("404" if model == "no_such_model" else "400")
    assert text in error.value.message()


def test_repository(client):
    index = client.get_model_repository_index()
    assert {"name": "add_sub", "version": "1", "state": "READY"}.items() <= next(
        entry for entry in index if entry["name"] == "add_sub").items()
    client.unload_model("spare")
    assert not client.is_model_ready("spare")
    with pytest.raises(InferenceServerException):
        client.infer("spare", [given("INPUT0", np.ones((1, 1), np.int32), "INT32")])
    client.load_model("spare")
    assert client.is_model_ready("spare")


def test_statistics(client):
    def successes():
        return client.get_inference_statistics("add_sub")["model_stats"][0]["inference_stats"]["success"]["count"]
    before = successes()
    client.infer("add_sub", addition())
    assert successes() == before + 1
    assert len(client.get_inference_statistics()["model_stats"]) > 10


def test_settings(client):
    before = client.get_log_settings()
    try:
        assert client.update_log_settings({"log_verbose_level": 2}) == before | {"log_verbose_level": 2}
    finally:
        client.update_log_settings({"log_verbose_level": before["log_verbose_level"]})
    rate = client.get_trace_settings()["trace_rate"]
    try:
        assert client.update_trace_settings(settings={"trace_rate": "9"})["trace_rate"] == "9"
    finally:
        client.update_trace_settings(settings={"trace_rate": rate})
    assert "trace_level" in client.get_trace_settings("add_sub")


@pytest.fixture
def region():
    made = shm.create_shared_memory_region("clients", "/millrace_clients_http", 4096)
    yield made
    shm.destroy_shared_memory_region(made)


def test_system_shared_memory(client, region):
    shm.set_shared_memory_region(region, [A, B])
    client.register_system_shared_memory("clients", "/millrace_clients_http", 4096)
    try:
        assert client.get_system_shared_memory_status()[0]["name"] == "clients"
        inputs = [client_of.InferInput("INPUT0", [1, 4], "FP32"), client_of.InferInput("INPUT1", [1, 4], "FP32")]
        inputs[0].set_shared_memory("clients", 16)
        inputs[1].set_shared_memory("clients", 16, offset=16)
        outputs = [client_of.InferRequestedOutput("SUM"), client_of.InferRequestedOutput("DIFFERENCE")]
        outputs[0].set_shared_memory("clients", 16, offset=64)
        result = client.infer("add_sub", inputs, outputs=outputs)
        assert result.get_output("SUM")["parameters"]["shared_memory_region"] == "clients"
        assert np.array_equal(shm.get_contents_as_numpy(region, np.float32, [1, 4], offset=64), A + B)
        assert np.array_equal(result.as_numpy("DIFFERENCE"), A - B)
    finally:
        client.unregister_system_shared_memory("clients")
    assert client.get_system_shared_memory_status() == []


def test_bytes_in_system_shared_memory(client, region):
    texts = np.array([[b"one", b"", b"three"]], np.object_)
    shm.set_shared_memory_region(region, [serialize_byte_tensor(texts)])
    size = sum(4 + len(text) for text in texts.flatten())
    client.register_system_shared_memory("clients", "/millrace_clients_http", 4096)
    try:
        tensor = client_of.InferInput("INPUT0", [1, 3], "BYTES")
        tensor.set_shared_memory("clients", size)
        assert same(client.infer("identity_bytes", [tensor]).as_numpy("OUTPUT0"), texts)
    finally:
        client.unregister_system_shared_memory("clients")


@pytest.mark.parametrize("server", ["millrace"], indirect=True, scope="session")
def test_cuda_shared_memory(client, gpu):
    given_, answer = (cuda_shm.create_shared_memory_region(name, 32, gpu) for name in ("given", "answer"))
    try:
        cuda_shm.set_shared_memory_region(given_, [A, B])
        for name, region in (("given", given_), ("answer", answer)):
            client.register_cuda_shared_memory(name, cuda_shm.get_raw_handle(region), gpu, 32)
        inputs = [client_of.InferInput("INPUT0", [1, 4], "FP32"), client_of.InferInput("INPUT1", [1, 4], "FP32")]
        inputs[0].set_shared_memory("given", 16)
        inputs[1].set_shared_memory("given", 16, offset=16)
        outputs = [client_of.InferRequestedOutput("SUM")]
        outputs[0].set_shared_memory("answer", 16)
        client.infer("add_sub", inputs, outputs=outputs)
        assert np.array_equal(cuda_shm.get_contents_as_numpy(answer, np.float32, [1, 4]), A + B)
        client.unregister_cuda_shared_memory()
        assert client.get_cuda_shared_memory_status() == []
    finally:
        for region in (given_, answer):
            cuda_shm.destroy_shared_memory_region(region)


def test_asyncio(server):
    async def run():
        async with aio.InferenceServerClient(server.http) as client:
            assert await client.is_server_live() and await client.is_model_ready("add_sub")
            results = await asyncio.gather(*[client.infer("add_sub", addition(binary=number % 2 == 0), request_id=str(number))
                                             for number in range(16)])
            for number, result in enumerate(results):
                assert result.get_response()["id"] == str(number)
                assert np.array_equal(result.as_numpy("SUM"), A + B)
            zeros = np.zeros((1, 5000), np.float32)
            result = await client.infer("identity_fp32", [given("INPUT0", zeros, "FP32")], request_compression_algorithm="gzip",
                                        response_compression_algorithm="deflate")
            assert same(result.as_numpy("OUTPUT0"), zeros)
            with pytest.raises(InferenceServerException):
                await client.infer("no_such_model", addition())
    asyncio.run(run())
