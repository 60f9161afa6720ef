"""The runtime for KServe has the fields, of the types, that the classes of KServe and Kubernetes publish."""

import re
from pathlib import Path

import kserve.models
import kubernetes.client.models
import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "packaging" / "kserve" / "servingruntime.yaml"
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def check(value, kind, where):
    """Yields what is wrong with a value that should be of that type, as the classes write it."""
    if inner := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: expected a list"
            return
        for i, element in enumerate(value):
            yield from check(element, inner[1], f"{where}[{i}]")
    elif inner := re.fullmatch(r"[dD]ict[(\[]str, (.+)[)\]]", kind):
        if not isinstance(value, dict):
            yield f"{where}: expected an object"
            return
        for name, element in value.items():
            yield from check(element, inner[1], f"{where}.{name}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{where}: expected {kind}, got {value!r}"
    else:
        yield from check_object(value, kind, where)


def check_object(value, kind, where):
    described = getattr(kserve.models, kind, None) or getattr(kubernetes.client.models, kind)
    if not isinstance(value, dict):
        yield f"{where}: expected an object"
        return
    attributes = {name: attribute for attribute, name in described.attribute_map.items()}
    for name, element in value.items():
        if name in attributes:
            yield from check(element, described.openapi_types[attributes[name]], f"{where}.{name}")
        else:
            yield f"{where}: no field {name}"
    if problems := missing(described, value, attributes):
        yield f"{where}: {problems}"


def missing(described, value, attributes):
    """What the class says about fields that must be there: by their description (Kubernetes), or when it is made (KServe)."""
    if hasattr(described, "model_fields"):
        fields = ((field.serialization_alias or name, field) for name, field in described.model_fields.items())
        absent = [name for name, field in fields if field.is_required() and name not in value]
        return f"no {', '.join(absent)}" if absent else ""
    try:
        described(**{attributes[name]: element for name, element in value.items() if name in attributes})
    except ValueError as error:
        return str(error)
    return ""


def problems(document):
    return list(check(document, "V1alpha1ServingRuntime", "runtime"))


@pytest.fixture
def runtime():
    return yaml.safe_load(FILE.read_text())


def test_the_runtime_is_as_published(runtime):
    assert problems(runtime) == []
    assert runtime["apiVersion"] == "serving.kserve.io/v1alpha1" and runtime["kind"] == "ServingRuntime"


def test_faults_are_found(runtime):
    def with_fault(change):
        document = yaml.safe_load(FILE.read_text())
        change(document["spec"], document["spec"]["containers"][0])
        return problems(document)

    assert with_fault(lambda spec, container: spec.update(protocolVersion=["v2"])) == ["runtime.spec: no field protocolVersion"]
    assert len(with_fault(lambda spec, container: container["ports"][0].update(containerPort="8080"))) == 1
    assert len(with_fault(lambda spec, container: container["ports"][0].pop("containerPort"))) == 1
    assert len(with_fault(lambda spec, container: container["readinessProbe"]["httpGet"].update(uri="/"))) == 1
    assert len(with_fault(lambda spec, container: spec.update(supportedModelFormats="onnx"))) == 1
    assert len(with_fault(lambda spec, container: spec.pop("containers"))) == 1


def test_both_protocols_probes_and_nobodys_rights(runtime):
    spec = runtime["spec"]
    assert spec["protocolVersions"] == ["v2", "grpc-v2"]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    assert {"livenessProbe", "readinessProbe", "resources"} <= set(container)
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["runAsUser"] > 0
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
