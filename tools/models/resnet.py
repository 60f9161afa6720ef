"""ResNet-50 (He et al. 2015) in its version 1.5: the 3x3 convolution of a block is the one with the stride."""

import numpy as np

from builder import GAIN, Builder, Tensor

PARAMETERS = 25_530_472  # 25,557,032 while training; folding a normalization leaves one number of two per channel
MACS = 4_089_184_256

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, width
EXPANSION = 4
CLASSES = 1000
RESIDUAL_SCALE = 0.5  # of the branch that is added, so that sixteen sums do not pile up


def resnet50(b: Builder) -> None:
    x = b.input("images", (3, 224, 224))
    x = b.conv(x, 64, 7, "stem", stride=2, activation="Relu")
    x = b.max_pool(x, 3, "stem.pool", stride=2)
    for stage, (blocks, width) in enumerate(STAGES, start=1):
        for block in range(1, blocks + 1):
            x = bottleneck(b, x, width, f"stage{stage}.{block}", stride=2 if block == 1 and stage > 1 else 1)
    features = x.shape[0]
    x = b.op("GlobalAveragePool", [x], "pool", (features, 1, 1))
    x = b.op("Flatten", [x], "flat", (features,), axis=1)
    b.output(b.dense(x, CLASSES, "classifier", 1.0 / np.sqrt(features)), "logits")


def bottleneck(b: Builder, x: Tensor, width: int, name: str, stride: int) -> Tensor:
    outputs = width * EXPANSION
    y = b.conv(x, width, 1, f"{name}.conv1", activation="Relu")
    y = b.conv(y, width, 3, f"{name}.conv2", stride=stride, activation="Relu")
    y = b.conv(y, outputs, 1, f"{name}.conv3", scale=RESIDUAL_SCALE)
    if x.shape != y.shape:
        x = b.conv(x, outputs, 1, f"{name}.shortcut", stride=stride, scale=GAIN["Relu"])
    return b.activation("Relu", b.add(x, y, f"{name}.sum"), name)
