"""Runs checks against a server, and makes the report."""

import dataclasses
import gzip
import json
import time

from . import checks as _registered
from .checks.http_inference import A, B
from .client import Client, infer_path, infer_request
from .registry import CHECKS, Failed, NotApplicable, shown

PASS, FAIL, SKIP = "pass", "fail", "not applicable"

# Features that a server does not announce among its extensions: a request shows whether it has them.
PROBED = ["compression", "streaming", "grpc_health", "reflection"]
# Parts of an extension that a server may have and yet keep shut: checked where the extension is announced.
PARTS = {"load": {"model_repository"}, "settings": {"trace", "logging"}}
ANNOUNCED = ["binary_tensor_data", "classification", "parameters", "model_repository", "model_configuration", "statistics", "trace",
             "logging", "system_shared_memory", "cuda_shared_memory"]
FEATURES = [*ANNOUNCED, *PROBED, *PARTS]
assert _registered and {check.feature for check in CHECKS.values()} <= {None, *FEATURES}


@dataclasses.dataclass
class Result:
    check: object
    outcome: str
    expected: str = ""
    found: str = ""
    reason: str = ""
    seconds: float = 0.0


class Runner:
    """`expected` names features that must be there: not announced is a failure. `without` names those that are not looked
    at. `models` limits the fixture models that are used."""

    def __init__(self, client: Client, expected=(), without=(), models=None):
        self.client, self.expected, self.without, self.models = client, set(expected), set(without), models
        self.features, self.served = {}, {}

    def select(self, only=None, levels=None):
        for check in CHECKS.values():
            if (only is None or any(check.id == name or check.id.startswith(name + ".") for name in only)) and (
                    levels is None or check.level in levels):
                yield check

    def run(self, check):
        start = time.monotonic()
        try:
            self.require(check)
            check.run(self.client)
            result = Result(check, PASS)
        except NotApplicable as nothing:
            result = Result(check, SKIP, reason=str(nothing))
        except Failed as failure:
            result = Result(check, FAIL, failure.expected, failure.found)
        except Exception as error:  # an answer that the check cannot even read: the check goes on to the next
            result = Result(check, FAIL, "an answer of the protocol", shown(f"{type(error).__name__}: {error}"))
        while self.client.leftovers:
            try:
                self.client.leftovers.pop()()
            except Exception as error:
                if result.outcome == PASS:
                    result = Result(check, FAIL, "the server to take back what the check changed", shown(str(error)))
        result.seconds = time.monotonic() - start
        return result

    def require(self, check):
        if (self.client.address if check.transport == "http" else self.client.target) is None:
            raise NotApplicable(f"no address for {check.transport} was given")
        if check.feature and check.feature not in self.expected:
            if check.feature in self.without:
                raise NotApplicable(f"{check.feature} was left out")
            if not self.has(check.feature):
                raise NotApplicable(f"the server does not have {check.feature}")
        for model in check.models:
            if self.models is not None and model not in self.models:
                raise NotApplicable(f"the model {model} was left out")
            if not self.serves(model):
                raise NotApplicable(f"the model {model} is not served")

    # --- What the server has ---

    def has(self, feature):
        if feature not in self.features:
            try:
                self.features[feature] = self.probe(feature)
            except Failed:
                self.features[feature] = False
        return self.features[feature]

    def probe(self, feature):
        if feature in PROBED:
            return getattr(self, "probe_" + feature)()
        if self.client.address:
            names = self.client.get_json("/v2").get("extensions") or []
        else:
            names = self.client.rpc.call("ServerMetadata").extensions
        return bool(PARTS.get(feature, {feature}) & set(names))

    def probe_compression(self):
        body = gzip.compress(json.dumps(infer_request([A, B])).encode())
        return self.client.post(infer_path("add_sub"), body, headers=[("Content-Encoding", "gzip")]).status == 200

    def probe_streaming(self):
        return self.implemented("ModelStreamInfer", [])

    def probe_grpc_health(self):
        from .rpc import HEALTH
        return self.implemented("Check", self.client.rpc.schema.message("grpc.health.v1.HealthCheckRequest")(), HEALTH)

    def probe_reflection(self):
        from .rpc import REFLECTION
        return self.implemented("ServerReflectionInfo", [], REFLECTION)

    def implemented(self, method, request, service=None):
        from .rpc import INFERENCE, grpc
        call = self.client.rpc.stub(method, service or INFERENCE)
        try:
            answer = call(iter(request) if isinstance(request, list) else request, timeout=self.client.timeout)
            if isinstance(request, list):
                list(answer)
        except grpc.RpcError as error:
            return error.code() != grpc.StatusCode.UNIMPLEMENTED
        return True

    def serves(self, model):
        if model not in self.served:
            try:
                if self.client.address:
                    self.served[model] = self.client.get(f"/v2/models/{model}").status == 200
                else:
                    self.client.rpc.call("ModelMetadata", self.client.rpc.make("ModelMetadataRequest", name=model))
                    self.served[model] = True
            except Failed:
                self.served[model] = False
        return self.served[model]


def counts(results):
    return {outcome: sum(result.outcome == outcome for result in results) for outcome in (PASS, FAIL, SKIP)}


def as_json(results, **about):
    """The report as an object."""
    return about | {
        "counts": counts(results),
        "groups": {group: counts([result for result in results if result.check.group == group])
                   for group in dict.fromkeys(result.check.group for result in results)},
        "checks": [{
            "id": result.check.id, "group": result.check.group, "section": result.check.section, "level": result.check.level,
            "requirement": result.check.requirement, "outcome": result.outcome,
            **({"expected": result.expected, "found": result.found} if result.outcome == FAIL else {}),
            **({"reason": result.reason} if result.outcome == SKIP else {})} for result in results]}
