"""Our gRPC service against that of the client people have: the same messages, fields, numbers, types and methods."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTO = "server/grpc/inference_service.proto"

theirs = pytest.importorskip("tritonclient.grpc.service_pb2", reason="needs tritonclient[grpc]")
from google.protobuf import descriptor_pb2, descriptor_pool  # noqa: E402  (comes with it)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    out = tmp_path_factory.mktemp("schema") / "set.pb"
    subprocess.run([ROOT / ".deps/bin/protoc", f"--proto_path={ROOT / 'src'}", "--include_imports",
                    f"--descriptor_set_out={out}", PROTO], check=True)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    return pool.FindFileByName(PROTO)


def fields(message):
    """{name: (number, type, label, type's name, oneof)} of a message."""
    found = descriptor_pb2.DescriptorProto()
    message.CopyToProto(found)
    oneofs = [oneof.name for oneof in found.oneof_decl]
    return {field.name: (field.number, field.type, field.label, field.type_name,
                         oneofs[field.oneof_index] if field.HasField("oneof_index") else None)
            for field in found.field}


def walk(messages, prefix=""):
    for name, message in sorted(messages.items()):
        yield prefix + name, message
        yield from walk(message.nested_types_by_name, f"{prefix}{name}.")


def test_messages_are_the_clients(ours):
    assert ours.package == theirs.DESCRIPTOR.package == "inference"
    expected = {name: fields(message) for name, message in walk(theirs.DESCRIPTOR.message_types_by_name)}
    found = {name: fields(message) for name, message in walk(ours.message_types_by_name)}
    assert len(expected) > 50
    assert found == expected


def test_methods_are_the_clients(ours):
    def methods(file):
        found = descriptor_pb2.FileDescriptorProto()
        file.CopyToProto(found)
        return {service.name: {(method.name, method.input_type, method.output_type, method.client_streaming,
                                method.server_streaming) for method in service.method} for service in found.service}

    assert methods(ours) == methods(theirs.DESCRIPTOR)
    assert len(methods(ours)["GRPCInferenceService"]) == 20
