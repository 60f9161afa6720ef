"""The clients of the package kserve, over HTTP and gRPC."""

import asyncio

import httpx
import numpy as np
import pytest
from grpc import RpcError
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

from samples import A, B, sample, same

# FP16 only as binary data; BF16 is not known to this client.
TYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"]


def given(name, array, datatype, binary):
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def addition(binary):
    return [given("INPUT0", A, "FP32", binary), given("INPUT1", B, "FP32", binary)]


def output(response, name):
    return next(output for output in response.outputs if output.name == name).as_numpy()


def over_rest(server, use):
    async def run():
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            return await use(client, "http://" + server.http)
    return asyncio.run(run())


def over_grpc(server, use):
    async def run():
        async with InferenceGRPCClient(server.grpc) as client:
            return await use(client)
    return asyncio.run(run())


def test_rest_health(server):
    async def use(client, url):
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        assert await client.is_model_ready(url, "add_sub") is True
        assert await client.is_model_ready(url, "no_such_model") is False
    over_rest(server, use)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_rest_inference(server, binary):
    request = InferRequest("add_sub", addition(binary), request_id="7", parameters={"binary_data_output": binary})
    response = over_rest(server, lambda client, url: client.infer(url, request, model_name="add_sub"))
    assert response.id == "7" and [entry.name for entry in response.outputs] == ["SUM", "DIFFERENCE"]
    assert np.array_equal(output(response, "SUM"), A + B) and np.array_equal(output(response, "DIFFERENCE"), A - B)


@pytest.mark.parametrize("datatype", TYPES)
def test_rest_datatypes(server, datatype):
    name = f"identity_{datatype.lower()}"
    array = sample(datatype)
    request = InferRequest(name, [given("INPUT0", array, datatype, True)], parameters={"binary_data_output": True})
    response = over_rest(server, lambda client, url: client.infer(url, request, model_name=name))
    assert same(output(response, "OUTPUT0"), array)


def test_rest_error(server):
    request = InferRequest("add_sub", addition(False)[:1])
    with pytest.raises(httpx.HTTPStatusError, match="INPUT1") as error:
        over_rest(server, lambda client, url: client.infer(url, request, model_name="add_sub"))
    assert error.value.response.status_code == 400


def test_grpc_health(server):
    async def use(client):
        assert await client.is_server_live() is True
        assert await client.is_server_ready() is True
        assert await client.is_model_ready("add_sub") is True
    over_grpc(server, use)


@pytest.mark.parametrize("binary", [True, False], ids=["raw", "contents"])
def test_grpc_inference(server, binary):
    request = InferRequest("add_sub", addition(binary), request_id="7")
    response = over_grpc(server, lambda client: client.infer(request))
    assert response.id == "7" and [entry.name for entry in response.outputs] == ["SUM", "DIFFERENCE"]
    assert np.array_equal(output(response, "SUM"), A + B) and np.array_equal(output(response, "DIFFERENCE"), A - B)


@pytest.mark.parametrize("datatype", TYPES)
def test_grpc_datatypes(server, datatype):
    array = sample(datatype)
    request = InferRequest(f"identity_{datatype.lower()}", [given("INPUT0", array, datatype, True)], request_id="1")
    response = over_grpc(server, lambda client: client.infer(request))
    assert same(output(response, "OUTPUT0"), array)


def test_grpc_error(server):
    with pytest.raises(RpcError) as error:
        over_grpc(server, lambda client: client.infer(InferRequest("no_such_model", addition(True), request_id="1")))
    assert error.value.code().name == "NOT_FOUND"
