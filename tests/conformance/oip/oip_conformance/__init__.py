"""Checks a server of the Open Inference Protocol, version 2, over HTTP and gRPC."""

__version__ = "0.1.0"
