"""Tensors that several tests send."""

import ml_dtypes
import numpy as np

TYPES = {"BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "INT8": np.int8,
         "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "FP32": np.float32,
         "FP64": np.float64, "BYTES": np.object_}
NO_JSON = {"FP16", "BF16"}
A = np.array([[1, 2, 3, 4]], np.float32)
B = np.array([[10, 0.5, -3, 0.25]], np.float32)
VALUES = np.array([[1, 5, 10, 4, 0.5]], np.float32)


def sample(datatype):
    if datatype == "BYTES":
        return np.array([[b"", b"a", "Grüße".encode()], [b"x" * 300, b"\ttab", b'"quotes"']], np.object_)
    return (np.arange(6).reshape(2, 3) % 2 if datatype == "BOOL" else np.arange(6).reshape(2, 3) * 7 - (3 if datatype[0] in "IFB" else 0)
            ).astype(TYPES[datatype])


def same(found, wanted):
    """Whether two arrays are equal, whatever kind of text BYTES came as."""
    if wanted.dtype == np.object_:
        found = np.array([value.encode() if isinstance(value, str) else value for value in found.flatten()], np.object_).reshape(found.shape)
    return found.shape == wanted.shape and (found.dtype == wanted.dtype) and np.array_equal(found, wanted)
