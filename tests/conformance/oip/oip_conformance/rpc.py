"""gRPC without generated code: the messages are made from the .proto files at run time, in a pool of their own, so that
other descriptions of the same package in this process do no harm."""

import tempfile
from pathlib import Path

from .registry import Failed, NotApplicable, shown

try:
    import grpc
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from grpc_tools import protoc
except ImportError as error:
    grpc = None
    MISSING = str(error)

PROTOCOL = Path(__file__).resolve().parent / "protocol"
FILES = [f"server/grpc/{name}.proto" for name in ("inference_service", "health", "reflection")]
INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
LIMIT = 64 << 20


class Schema:
    """The messages and methods of the .proto files."""

    def __init__(self):
        if grpc is None:
            raise NotApplicable(f"gRPC needs the packages grpcio, grpcio-tools and protobuf: {MISSING}")
        with tempfile.TemporaryDirectory() as folder:
            compiled = Path(folder) / "protocol.bin"
            status = protoc.main(["protoc", f"-I{PROTOCOL}", "--include_imports", f"--descriptor_set_out={compiled}", *FILES])
            if status != 0:
                raise RuntimeError(f"protoc failed for {FILES} in {PROTOCOL}")
            files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
        self.pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self.pool.Add(file)

    def message(self, name):
        """The class of a message, as in message("inference.ModelInferRequest")."""
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def service(self, name):
        return self.pool.FindServiceByName(name)


class Rpc:
    """Calls of a server by names of methods; an answer, or `Failed` with the status."""

    def __init__(self, target, timeout, schema=None):
        self.schema = schema or Schema()
        self.target, self.timeout = target, timeout
        self.channel = grpc.insecure_channel(target, options=[
            ("grpc.max_send_message_length", LIMIT), ("grpc.max_receive_message_length", LIMIT),
            ("grpc.enable_retries", 0)])

    def close(self):
        self.channel.close()

    def wait_for_server(self):
        try:
            grpc.channel_ready_future(self.channel).result(timeout=min(self.timeout, 10))
        except grpc.FutureTimeoutError:
            raise Failed(f"a server of gRPC at {self.target}", "none") from None

    def make(self, name, /, **fields):
        return self.schema.message(f"inference.{name}")(**fields)

    def stub(self, method, service=INFERENCE):
        described = self.schema.service(service).methods_by_name[method]
        kind = ("stream" if described.client_streaming else "unary") + "_" + ("stream" if described.server_streaming else "unary")
        request, answer = (message_factory.GetMessageClass(type_) for type_ in (described.input_type, described.output_type))
        return getattr(self.channel, kind)(f"/{service}/{method}", request_serializer=request.SerializeToString,
                                           response_deserializer=answer.FromString)

    def raw(self, method, service=INFERENCE):
        """A unary call of bytes."""
        return self.channel.unary_unary(f"/{service}/{method}")

    def call(self, method, request=None, service=INFERENCE, **options):
        """The answer of a unary call."""
        if request is None:
            request = message_factory.GetMessageClass(self.schema.service(service).methods_by_name[method].input_type)()
        try:
            return self.stub(method, service)(request, timeout=self.timeout, **options)
        except grpc.RpcError as error:
            raise Failed(f"{method} to succeed", f"{error.code().name}: {shown(error.details())}") from None

    def refused(self, method, request, codes, service=INFERENCE):
        """The status of a call that has to fail with one of these codes."""
        try:
            answer = self.stub(method, service)(request, timeout=self.timeout)
        except grpc.RpcError as error:
            if error.code().name not in codes:
                raise Failed(f"the status {' or '.join(codes)}", f"{error.code().name}: {shown(error.details())}") from None
            if not error.details():
                raise Failed("a message with the status", f"{error.code().name} without one") from None
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                self.call("ServerLive")  # refused, not gone
            return error
        raise Failed(f"the status {' or '.join(codes)}", f"an answer: {shown(str(answer))}")

    def exchange(self, requests):
        """What a ModelStreamInfer answers to these requests, all of it."""
        try:
            return list(self.stub("ModelStreamInfer")(iter(requests), timeout=self.timeout))
        except grpc.RpcError as error:
            raise Failed("ModelStreamInfer to succeed", f"{error.code().name}: {shown(error.details())}") from None
