"""Variants of ONNX models: the same model in FP16 or BF16 by casts, or in INT8 or FP8 by Q/DQ nodes from real inputs."""
