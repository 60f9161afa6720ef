"""Services of gRPC beside the protocol's own: health checking and server reflection."""

from .. import rpc as rpc_
from ..registry import Failed, Group, expect, shown

health = Group("grpc.health.v1", "grpc", "grpc_health")
reflection = Group("server reflection", "grpc", "reflection")
SERVING = 1


def status_of(client, service):
    request = client.rpc.schema.message("grpc.health.v1.HealthCheckRequest")(service=service)
    return client.rpc.call("Check", request, service=rpc_.HEALTH).status


@health.check("grpc.health_v1.server", "grpc.health.v1", "Check of the empty name says SERVING for the server")
def _(client):
    expect(status_of(client, "") == SERVING, "SERVING (1)", status_of(client, ""))


@health.check("grpc.health_v1.service", "grpc.health.v1", "Check of inference.GRPCInferenceService says SERVING")
def _(client):
    found = status_of(client, rpc_.INFERENCE)
    expect(found == SERVING, "SERVING (1)", found)


@health.check("grpc.health_v1.unknown", "grpc.health.v1", "Check of a service that is not there is NOT_FOUND")
def _(client):
    request = client.rpc.schema.message("grpc.health.v1.HealthCheckRequest")(service="no.such.Service")
    client.rpc.refused("Check", request, ("NOT_FOUND",), service=rpc_.HEALTH)


@health.check("grpc.health_v1.watch", "grpc.health.v1", "Watch answers the present status at once")
def _(client):
    request = client.rpc.schema.message("grpc.health.v1.HealthCheckRequest")()
    call = client.rpc.stub("Watch", rpc_.HEALTH)(request, timeout=client.timeout)
    try:
        found = next(iter(call)).status
    except (rpc_.grpc.RpcError, StopIteration) as error:
        raise Failed("a status", shown(str(error))) from None
    finally:
        call.cancel()
    expect(found == SERVING, "SERVING (1)", found)


def reflect(client, **fields):
    request = client.rpc.schema.message("grpc.reflection.v1alpha.ServerReflectionRequest")(**fields)
    try:
        (found,) = client.rpc.stub("ServerReflectionInfo", rpc_.REFLECTION)(iter([request]), timeout=client.timeout)
    except (rpc_.grpc.RpcError, ValueError) as error:
        raise Failed("one answer", shown(str(error))) from None
    return found


@reflection.check("grpc.reflection.services", "grpc.reflection.v1alpha", "the service of the protocol is listed")
def _(client):
    names = [service.name for service in reflect(client, list_services="").list_services_response.service]
    expect(rpc_.INFERENCE in names, rpc_.INFERENCE, names)


@reflection.check("grpc.reflection.symbol", "grpc.reflection.v1alpha", "the file of a message is answered, and describes it")
def _(client):
    from google.protobuf import descriptor_pb2
    found = reflect(client, file_containing_symbol="inference.ModelInferRequest").file_descriptor_response.file_descriptor_proto
    files = [descriptor_pb2.FileDescriptorProto.FromString(content) for content in found]
    fields = {field.name: field.number for file in files for message in file.message_type if message.name == "ModelInferRequest"
              for field in message.field}
    wanted = {"model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6, "raw_input_contents": 7}
    expect(fields == wanted, wanted, fields)


@reflection.check("grpc.reflection.unknown", "grpc.reflection.v1alpha", "a symbol that is not there is an error in the answer")
def _(client):
    found = reflect(client, file_containing_symbol="no.such.Message")
    expect(found.WhichOneof("message_response") == "error_response", "an error_response", str(found))
