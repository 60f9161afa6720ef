"""The fixture models on the model server of the package kserve.

    python kserve_server.py --http_port 8080 --grpc_port 8081

The server leaves it to a model whether inputs fit; the models here check names, datatypes, shapes and batches, and refuse
with the server's own `InvalidInput`. What remains is the server's: parsing, routing, errors, binary data, the protocol.
"""

import struct
import sys
import time
from pathlib import Path

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from oip_conformance.fixtures import MODELS, described  # noqa: E402


class Fixture(Model):
    def __init__(self, name):
        super().__init__(name)
        self.inputs, self.outputs, self.batch, _ = MODELS[name]
        self.ready = True

    def load(self):
        self.ready = True
        return True

    def get_input_types(self):
        return described(self.inputs, self.batch)

    def get_output_types(self):
        return described(self.outputs, self.batch)

    def read(self, request):
        names = [given.name for given in request.inputs]
        if sorted(names) != sorted(name for name, _, _ in self.inputs):
            raise InvalidInput(f"expected the inputs {[name for name, _, _ in self.inputs]}, found {names}")
        values = {}
        for wanted in self.get_input_types():
            given = request.get_input_by_name(wanted["name"])
            if given.datatype != wanted["datatype"]:
                raise InvalidInput(f"{given.name}: expected {wanted['datatype']}, found {given.datatype}")
            shape = list(given.shape)
            if len(shape) != len(wanted["shape"]) or any(want not in (-1, size) or size < 0 for want, size in zip(wanted["shape"], shape)):
                raise InvalidInput(f"{given.name}: expected shape {wanted['shape']}, found {shape}")
            if self.batch and shape[0] > self.batch:
                raise InvalidInput(f"{given.name}: a batch of {shape[0]}")
            try:
                values[given.name] = given.as_numpy()
            except (ValueError, TypeError, OverflowError, struct.error) as error:
                raise InvalidInput(f"{given.name}: {error}") from None
        return values

    def compute(self, values):
        if self.name == "add_sub":
            return {"SUM": values["INPUT0"] + values["INPUT1"], "DIFFERENCE": values["INPUT0"] - values["INPUT1"]}
        if self.name == "transpose":
            return {"TRANSPOSED": np.ascontiguousarray(values["MATRIX"].T)}
        if self.name == "row_sum":
            return {"SUMS": values["MATRIX"].sum(axis=1)}
        if self.name == "slow":
            time.sleep(float(values["STEPS"][0]) / 1e6)
            return {"RESULT": values["START"] + values["STEPS"].astype(np.float32)}
        return {self.outputs[0][0]: next(iter(values.values()))}

    def predict(self, request: InferRequest, headers=None, response_headers=None):
        results = self.compute(self.read(request))
        names = [output.name for output in request.request_outputs or ()] or [name for name, _, _ in self.outputs]
        outputs = []
        for name in names:
            if name not in results:
                raise InvalidInput(f"there is no output {name!r}")
            datatype = next(kind for output, kind, _ in self.outputs if output == name)
            output = InferOutput(name=name, shape=list(results[name].shape), datatype=datatype)
            if request.from_grpc:
                output.set_data_from_numpy(results[name], binary_data=request.use_binary_outputs or datatype == "FP16")
            else:
                output.data = results[name]
            outputs.append(output)
        return InferResponse(response_id=request.id or generate_uuid(), model_name=self.name, infer_outputs=outputs, from_grpc=request.from_grpc,
                             use_binary_outputs=request.use_binary_outputs, requested_outputs=request.request_outputs)


def main():
    left_out = {"identity_bf16", "versions"}  # a datatype that the server does not know; it has no versions
    models = [Fixture(name) for name in MODELS if name not in left_out]
    ModelServer(workers=1).start(models)


if __name__ == "__main__":
    main()
