"""Tensor data types: sizes, wire forms, and values worth sending."""

import dataclasses
import math
import struct

# name: (struct code, size in bytes). FP16 and BF16 have no form in JSON and no field in gRPC's contents.
CODES = {
    "BOOL": ("?", 1), "UINT8": ("B", 1), "UINT16": ("H", 2), "UINT32": ("I", 4), "UINT64": ("Q", 8),
    "INT8": ("b", 1), "INT16": ("h", 2), "INT32": ("i", 4), "INT64": ("q", 8),
    "FP16": ("e", 2), "BF16": ("H", 2), "FP32": ("f", 4), "FP64": ("d", 8),
}
DATATYPES = [*CODES, "BYTES"]
RAW_ONLY = {"FP16", "BF16"}
CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


def pack(datatype, values):
    """The little-endian bytes of a flat list; BF16 values are given as their 16 bits."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return struct.pack(f"<{len(values)}{CODES[datatype][0]}", *values)


def unpack(datatype, data):
    """The flat list, or ValueError for bytes that are no such tensor."""
    if datatype == "BYTES":
        values, at = [], 0
        while at < len(data):
            if at + 4 > len(data):
                raise ValueError(f"{len(data) - at} bytes left where a length of 4 bytes should be")
            (size,) = struct.unpack_from("<I", data, at)
            if at + 4 + size > len(data):
                raise ValueError(f"an element of {size} bytes, {len(data) - at - 4} bytes left")
            values.append(data[at + 4:at + 4 + size])
            at += 4 + size
        return values
    code, size = CODES[datatype]
    if len(data) % size:
        raise ValueError(f"{len(data)} bytes are no multiple of {size}")
    if datatype == "BOOL" and set(data) - {0, 1}:
        raise ValueError(f"a BOOL byte other than 0 or 1: {data[:16].hex()}")
    return list(struct.unpack(f"<{len(data) // size}{code}", data))


def as_float(bits):
    """The value of a BF16 given as its 16 bits."""
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def count(shape):
    return math.prod(shape)


@dataclasses.dataclass(frozen=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple
    values: tuple  # flat, row-major; BYTES as bytes, BF16 as bits

    @property
    def raw(self):
        return pack(self.datatype, self.values)

    @property
    def json_data(self):
        if self.datatype == "BYTES":
            return [value.decode() for value in self.values]
        return list(self.values)


def tensor(name, datatype, shape, values):
    return Tensor(name, datatype, tuple(shape), tuple(values))


def _integers(bits, signed):
    return [-(1 << bits - 1), (1 << bits - 1) - 1, -1, 0, 1, 42] if signed else [(1 << bits) - 1, 0, 1, (1 << bits - 1), 2, 42]


# Six values of each type that JSON can carry, so that they also go through every other form.
JSON_SAMPLES = {
    "BOOL": [True, False, False, True, True, False],
    **{f"UINT{bits}": _integers(bits, False) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": _integers(bits, True) for bits in (8, 16, 32, 64)},
    "FP32": [0.5, -1.25, 3.4028234663852886e38, 1.1754943508222875e-38, 0.0, 16777216.0],
    "FP64": [0.1, -1.7976931348623157e308, 2.2250738585072014e-308, 1e-300, 0.0, 9007199254740992.0],
    "BYTES": [b"", b"a", "Grüße, 世界".encode(), b"with \"quotes\" and \\", b"\ttab\nline", b"x" * 300],
}
# The same for binary forms, with what JSON cannot say.
RAW_SAMPLES = JSON_SAMPLES | {
    "FP16": [0.0, -0.0, 65504.0, math.inf, 6e-08, -1.5],
    "BF16": [0x0000, 0x8000, 0x3F80, 0x7F80, 0x0001, 0xC2F7],
    "FP32": [0.5, -0.0, math.inf, -math.inf, 1.401298464324817e-45, 3.4028234663852886e38],
    "FP64": [0.1, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308],
    "BYTES": [b"", b"\x00", bytes(range(256)), b"\xff\xfe", "世界".encode(), b"x" * 70000],
}
