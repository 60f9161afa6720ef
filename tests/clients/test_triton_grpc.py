"""tritonclient over gRPC: its blocking, its asynchronous, its streaming and its asyncio client."""

import asyncio
import queue

import numpy as np
import pytest
import tritonclient.grpc as client_of
import tritonclient.grpc.aio as aio
import tritonclient.utils.cuda_shared_memory as cuda_shm
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from oip_conformance import rpc
from samples import TYPES, VALUES, A, B, sample, same

ANSWER_S = 60


@pytest.fixture
def client(server):
    with client_of.InferenceServerClient(server.grpc) as made:
        yield made


def given(name, array, datatype):
    return client_of.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def addition():
    return [given("INPUT0", A, "FP32"), given("INPUT1", B, "FP32")]


def fields(messages):
    """Every field of these messages and of those within: name -> (number, type, whether repeated, what)."""
    found, open_ = {}, list(messages)
    while open_:
        message = open_.pop()
        open_ += message.nested_types
        for field in message.fields:
            what = field.message_type or field.enum_type
            found[f"{message.full_name}.{field.name}"] = (field.number, field.type, field.is_repeated, what and what.full_name)
    return found


def test_the_schema_is_the_clients():
    schema = rpc.Schema()
    for file, theirs in (("server/grpc/inference_service.proto", service_pb2), ("repository/model_config.proto", model_config_pb2)):
        ours = fields(schema.pool.FindFileByName(file).message_types_by_name.values())
        expected = fields(theirs.DESCRIPTOR.message_types_by_name.values())
        assert {name: field for name, field in ours.items() if name in expected} == expected
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in theirs.methods:
        mine = schema.service(rpc.INFERENCE).methods_by_name[method.name]
        assert (mine.input_type.full_name, mine.output_type.full_name) == (method.input_type.full_name, method.output_type.full_name)


def test_health(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add_sub")
    assert client.is_model_ready("versions", "1")
    try:
        assert not client.is_model_ready("no_such_model")
    except InferenceServerException as error:
        assert "NOT_FOUND" in error.status()


def test_metadata(client):
    assert "classification" in client.get_server_metadata().extensions
    model = client.get_model_metadata("add_sub")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in model.inputs] == [
        ("INPUT0", "FP32", [-1, 4]), ("INPUT1", "FP32", [-1, 4])]
    assert client.get_model_metadata("versions", as_json=True)["versions"] == ["1", "3"]
    assert client.get_model_config("add_sub").config.max_batch_size == 8


@pytest.mark.parametrize("datatype", TYPES)
def test_datatypes(client, datatype):
    array = sample(datatype)
    result = client.infer(f"identity_{datatype.lower()}", [given("INPUT0", array, datatype)])
    assert same(result.as_numpy("OUTPUT0"), array)


def test_all_outputs_in_order(client):
    result = client.infer("add_sub", addition(), request_id="7")
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "add_sub", "1")
    assert [output.name for output in answer.outputs] == ["SUM", "DIFFERENCE"] and len(answer.raw_output_contents) == 2
    assert np.array_equal(result.as_numpy("SUM"), A + B) and np.array_equal(result.as_numpy("DIFFERENCE"), A - B)


def test_outputs_in_the_order_asked_for(client):
    outputs = [client_of.InferRequestedOutput("DIFFERENCE"), client_of.InferRequestedOutput("SUM")]
    result = client.infer("add_sub", addition(), outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["DIFFERENCE", "SUM"]
    assert np.array_equal(result.as_numpy("SUM"), A + B) and np.array_equal(result.as_numpy("DIFFERENCE"), A - B)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, algorithm):
    array = np.zeros((2, 5000), np.float32)
    assert same(client.infer("identity_fp32", [given("INPUT0", array, "FP32")], compression_algorithm=algorithm).as_numpy("OUTPUT0"), array)


def test_classification(client):
    result = client.infer("classify", [given("VALUES", VALUES, "FP32")], outputs=[client_of.InferRequestedOutput("SCORES", class_count=2)])
    found = [text.decode().split(":")[1:] for text in result.as_numpy("SCORES").flatten()]
    assert found == [["2", "plum"], ["1", "pear"]]


def test_parameters_and_deadline(client):
    result = client.infer("add_sub", addition(), parameters={"mine": "x", "number": 3, "flag": True}, priority=1, timeout=30_000_000,
                          client_timeout=ANSWER_S)
    assert np.array_equal(result.as_numpy("SUM"), A + B)


def test_a_large_tensor(client):
    array = np.arange(3 << 20, dtype=np.float32).reshape(1, -1)
    assert same(client.infer("identity_fp32", [given("INPUT0", array, "FP32")]).as_numpy("OUTPUT0"), array)


def test_many_at_once(client):
    answers = queue.Queue()
    for number in range(32):
        client.async_infer("identity_int32", [given("INPUT0", np.full((1, 3), number, np.int32), "INT32")], request_id=str(number),
                           callback=lambda result, error: answers.put((result, error)))
    found = [answers.get(timeout=ANSWER_S) for _ in range(32)]
    assert [error for _, error in found if error] == []
    assert {int(result.get_response().id) for result, _ in found} == set(range(32))
    for result, _ in found:
        assert (result.as_numpy("OUTPUT0") == int(result.get_response().id)).all()


def test_streaming(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number in range(20):
        client.async_stream_infer("identity_int32", [given("INPUT0", np.full((1, 2), number, np.int32), "INT32")], request_id=str(number))
    found = [answers.get(timeout=ANSWER_S) for _ in range(20)]
    client.async_stream_infer("add_sub", addition()[:1], request_id="bad")
    _, error = answers.get(timeout=ANSWER_S)
    assert error is not None and "INPUT1" in error.message()
    client.async_stream_infer("add_sub", addition(), request_id="good")
    result, error = answers.get(timeout=ANSWER_S)
    client.stop_stream()
    assert error is None and np.array_equal(result.as_numpy("SUM"), A + B)
    assert sorted(int(result.get_response().id) for result, _ in found) == list(range(20))
    for result, _ in found:
        assert (result.as_numpy("OUTPUT0") == int(result.get_response().id)).all()


@pytest.mark.parametrize("model, inputs, status", [
    ("no_such_model", addition(), "NOT_FOUND"), ("add_sub", addition()[:1], "INVALID_ARGUMENT"),
    ("add_sub", [given("INPUT0", A, "FP32"), given("INPUT1", np.ones((1, 3), np.float32), "FP32")], "INVALID_ARGUMENT")])
def test_errors_carry_a_status(client, model, inputs, status):
    with pytest.raises(InferenceServerException) as error:
        client.infer(model, inputs)
    assert status in error.value.status() and error.value.message()


def test_repository(client):
    index = {(entry.name, entry.version): entry.state for entry in client.get_model_repository_index().models}
    assert index["add_sub", "1"] == index["versions", "3"] == "READY"
    client.unload_model("spare")
    with pytest.raises(InferenceServerException):
        client.infer("spare", [given("INPUT0", np.ones((1, 1), np.int32), "INT32")])
    client.load_model("spare")
    assert client.is_model_ready("spare")


def test_statistics(client):
    def successes():
        return client.get_inference_statistics("add_sub").model_stats[0].inference_stats.success.count
    before = successes()
    client.infer("add_sub", addition())
    assert successes() == before + 1


def test_settings(client):
    before = client.get_log_settings().settings["log_verbose_level"].uint32_param
    try:
        assert client.update_log_settings({"log_verbose_level": before + 2}).settings["log_verbose_level"].uint32_param == before + 2
    finally:
        client.update_log_settings({"log_verbose_level": before})
    rate = list(client.get_trace_settings().settings["trace_rate"].value)
    try:
        assert list(client.update_trace_settings(settings={"trace_rate": "9"}).settings["trace_rate"].value) == ["9"]
    finally:
        client.update_trace_settings(settings={"trace_rate": rate})


def test_system_shared_memory(client):
    region = shm.create_shared_memory_region("clients", "/millrace_clients_grpc", 4096)
    try:
        shm.set_shared_memory_region(region, [A, B])
        client.register_system_shared_memory("clients", "/millrace_clients_grpc", 4096)
        assert "clients" in client.get_system_shared_memory_status().regions
        inputs = [client_of.InferInput("INPUT0", [1, 4], "FP32"), client_of.InferInput("INPUT1", [1, 4], "FP32")]
        inputs[0].set_shared_memory("clients", 16)
        inputs[1].set_shared_memory("clients", 16, offset=16)
        outputs = [client_of.InferRequestedOutput("SUM"), client_of.InferRequestedOutput("DIFFERENCE")]
        outputs[0].set_shared_memory("clients", 16, offset=64)
        result = client.infer("add_sub", inputs, outputs=outputs)
        assert np.array_equal(shm.get_contents_as_numpy(region, np.float32, [1, 4], offset=64), A + B)
        assert np.array_equal(result.as_numpy("DIFFERENCE"), A - B)
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
        with pytest.raises(InferenceServerException):
            client.infer("add_sub", inputs)
    finally:
        shm.destroy_shared_memory_region(region)


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
        assert not client.get_cuda_shared_memory_status().regions
    finally:
        for region in (given_, answer):
            cuda_shm.destroy_shared_memory_region(region)


def test_asyncio(server):
    async def run():
        async with aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*[client.infer("add_sub", addition(), request_id=str(number)) for number in range(16)])
            for number, result in enumerate(results):
                assert result.get_response().id == str(number) and np.array_equal(result.as_numpy("SUM"), A + B)

            async def requests():
                for number in range(8):
                    yield {"model_name": "add_sub", "inputs": addition(), "request_id": str(number)}
            ids = set()
            async for result, error in client.stream_infer(requests()):
                assert error is None and np.array_equal(result.as_numpy("DIFFERENCE"), A - B)
                ids.add(result.get_response().id)
            assert ids == {str(number) for number in range(8)}
    asyncio.run(run())
