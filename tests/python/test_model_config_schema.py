"""Whether the configuration of models (src/repository/model_config.proto) is the one that clients decode.

Names, numbers, types and values are compared with the descriptor in the public client's package.
"""

import ast
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]


def ours(folder):
    made = folder / "ours.pb"
    subprocess.run([ROOT / ".deps/bin/protoc", f"--proto_path={ROOT / 'src'}", f"--descriptor_set_out={made}",
                    ROOT / "src/repository/model_config.proto"], check=True)
    return descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file[0]


def theirs():
    package = importlib.util.find_spec("tritonclient")
    if package is None:
        pytest.skip("tritonclient is not installed: see docs/dependencies.md")
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    literal = re.search(r"AddSerializedFile\((b'.*?')\)\n", path.read_text(), re.DOTALL)[1]
    return descriptor_pb2.FileDescriptorProto.FromString(ast.literal_eval(literal))


def flat(file):
    """Every field and value of a schema, as tuples."""
    out = set()

    def enums(prefix, found):
        out.update((prefix + enum.name, value.name, value.number) for enum in found for value in enum.value)

    def messages(prefix, found):
        for message in found:
            inner = f"{prefix}{message.name}."
            enums(inner, message.enum_type)
            messages(inner, message.nested_type)
            for field in message.field:
                oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
                out.add((inner, field.name, field.number, field.type, field.label, field.type_name, oneof))

    enums("", file.enum_type)
    messages("", file.message_type)
    return out


def test_the_schema_is_the_public_one(tmp_path):
    mine, public = ours(tmp_path), theirs()
    assert mine.package == public.package
    assert len(flat(mine)) > 200
    assert flat(mine) == flat(public)
