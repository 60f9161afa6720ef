"""A small perceptron: so little work that what a request costs besides it is what is measured."""

import numpy as np

from builder import Builder

PARAMETERS = 152_336
MACS = 151_552

INPUTS, HIDDEN, OUTPUTS = 64, (256, 256, 256), 16


def mlp(b: Builder) -> None:
    x = b.input("x", (INPUTS,))
    for i, width in enumerate(HIDDEN, start=1):
        x = b.dense(x, width, f"dense{i}", np.sqrt(2.0 / x.shape[-1]))  # He et al. 2015
        x = b.activation("Relu", x, f"dense{i}.relu")
    b.output(b.dense(x, OUTPUTS, f"dense{len(HIDDEN) + 1}", np.sqrt(1.0 / x.shape[-1])), "y")
