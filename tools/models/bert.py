"""BERT base (Devlin et al. 2018) with the head that marks where an answer starts and ends."""

import numpy as np
from onnx import TensorProto

from builder import Builder, Tensor

PARAMETERS = 108_893_186
MACS = {128: 11_173_822_464, 384: 35_333_406_720}  # by sequence length

LAYERS, HIDDEN, HEADS, INTERMEDIATE = 12, 768, 12, 3072
VOCABULARY, POSITIONS, TOKEN_TYPES = 30522, 512, 2
EPSILON = 1e-12
MASKED = -10000.0  # added to the scores of tokens that are not there


def bert_base(b: Builder, sequence: int) -> None:
    tokens, mask, types = (b.input(name, (sequence,), TensorProto.INT64)
                           for name in ("input_ids", "attention_mask", "token_type_ids"))
    x = embeddings(b, tokens, types)
    hidden_scores = masked_scores(b, mask)
    for layer in range(LAYERS):
        name = f"layer{layer}"
        y = attention(b, x, hidden_scores, f"{name}.attention")
        x = normalized(b, b.add(y, x, f"{name}.attention.sum"), f"{name}.attention.norm")
        y = dense(b, gelu(b, dense(b, x, INTERMEDIATE, f"{name}.up"), f"{name}.gelu"), HIDDEN, f"{name}.down")
        x = normalized(b, b.add(y, x, f"{name}.sum"), f"{name}.norm")
    answer = dense(b, x, 2, "answer")
    ends = b.ops("Split", [answer, b.integers("halves", [1, 1])], ["answer.start", "answer.end"],
                 (sequence, 1), axis=-1)
    for end, name in zip(ends, ("start_logits", "end_logits")):
        b.output(b.op("Squeeze", [end, b.integers("last", [-1])], f"{end.name}.flat", (sequence,)), name)


def dense(b: Builder, x: Tensor, width: int, name: str) -> Tensor:
    return b.dense(x, width, name, np.sqrt(2.0 / (x.shape[-1] + width)))  # Glorot and Bengio 2010


def normalized(b: Builder, x: Tensor, name: str) -> Tensor:
    scale = b.weight(f"{name}.scale", 1.0 + b.normal((HIDDEN,), 0.05))
    bias = b.weight(f"{name}.bias", b.normal((HIDDEN,), 0.05))
    return b.op("LayerNormalization", [x, scale, bias], name, x.shape, axis=-1, epsilon=EPSILON)


def embeddings(b: Builder, tokens: Tensor, types: Tensor) -> Tensor:
    sequence, = tokens.shape
    shape = (sequence, HIDDEN)

    def table(rows: int, name: str) -> str:
        return b.weight(f"embeddings.{name}.table", b.normal((rows, HIDDEN), 0.02))

    words = b.op("Gather", [table(VOCABULARY, "words"), tokens], "embeddings.words", shape)
    kinds = b.op("Gather", [table(TOKEN_TYPES, "types"), types], "embeddings.types", shape)
    bounds = [b.integers("first", [0]), b.integers("sequence", [sequence]), b.integers("axis", [0])]
    places = b.op("Slice", [table(POSITIONS, "places"), *bounds], "embeddings.places", shape)
    x = b.add(b.add(words, kinds, "embeddings.sum"), places, "embeddings.placed")
    return normalized(b, x, "embeddings.norm")


def masked_scores(b: Builder, mask: Tensor) -> Tensor:
    """[batch, 1, 1, S]: 0 where a token is there, MASKED where not."""
    shape = (1, 1, *mask.shape)
    x = b.op("Unsqueeze", [mask, b.integers("middle", [1, 2])], "mask.wide", shape)
    x = b.op("Sub", [b.scalar("one", 1.0), b.as_float(x, "mask.float")], "mask.absent", shape)
    return b.op("Mul", [x, b.scalar("masked", MASKED)], "mask.scores", shape)


def attention(b: Builder, x: Tensor, hidden_scores: Tensor, name: str) -> Tensor:
    sequence, _ = x.shape
    width = HIDDEN // HEADS

    def heads(part: str, order: list[int]) -> Tensor:
        y = dense(b, x, HIDDEN, f"{name}.{part}")
        y = b.op("Reshape", [y, b.integers("heads", [0, sequence, HEADS, width])], f"{name}.{part}.heads",
                 (sequence, HEADS, width))
        shape = tuple(y.shape[axis - 1] for axis in order[1:])
        return b.op("Transpose", [y], f"{name}.{part}.turned", shape, perm=order)

    query, key, value = heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]), heads("value", [0, 2, 1, 3])
    scores = b.matmul(query, key, f"{name}.products", (HEADS, sequence, sequence))
    scores = b.op("Div", [scores, b.scalar("root_of_width", np.sqrt(width))], f"{name}.scores", scores.shape)
    scores = b.add(scores, hidden_scores, f"{name}.masked")
    weights = b.op("Softmax", [scores], f"{name}.weights", scores.shape, axis=-1)
    y = b.matmul(weights, value, f"{name}.values", (HEADS, sequence, width))
    y = b.op("Transpose", [y], f"{name}.rows", (sequence, HEADS, width), perm=[0, 2, 1, 3])
    y = b.op("Reshape", [y, b.integers("joined", [0, sequence, HIDDEN])], f"{name}.joined", x.shape)
    return dense(b, y, HIDDEN, f"{name}.output")


def gelu(b: Builder, x: Tensor, name: str) -> Tensor:
    """x / 2 * (1 + erf(x / sqrt(2)))"""
    y = b.op("Div", [x, b.scalar("root_of_two", np.sqrt(2.0))], f"{name}.scaled", x.shape)
    y = b.op("Erf", [y], f"{name}.erf", x.shape)
    y = b.op("Add", [y, b.scalar("one", 1.0)], f"{name}.plus", x.shape)
    y = b.op("Mul", [x, y], f"{name}.product", x.shape)
    return b.op("Mul", [y, b.scalar("half", 0.5)], name, x.shape)
