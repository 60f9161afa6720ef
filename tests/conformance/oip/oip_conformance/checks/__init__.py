"""All checks; importing this package registers them."""

from . import (binary, classification, compression, configuration, health, http, http_errors, http_inference, metadata,
               repository, rpc_errors, rpc_inference, services, settings, shared_memory, statistics, streaming)

__all__ = ["binary", "classification", "compression", "configuration", "health", "http", "http_errors", "http_inference",
           "metadata", "repository", "rpc_errors", "rpc_inference", "services", "settings", "shared_memory", "statistics",
           "streaming"]
