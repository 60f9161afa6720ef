"""ModelStreamInfer: many inferences on one stream."""

from ..client import expect_message
from ..fixtures import identity
from ..registry import SHOULD, Group, expect, expect_equal
from ..tensors import tensor
from .http_inference import DIFFERENCE, MATRIX, SUM, TRANSPOSED, A, B

rpc = Group("streaming", "grpc", "streaming")
SECTION = "gRPC: ModelStreamInfer"


def answers(client, requests):
    found = client.rpc.exchange(requests)
    expect(len(found) == len(requests), f"{len(requests)} answers", len(found))
    return found


@rpc.check("grpc.stream", SECTION, "a request on a stream is answered", "add_sub")
def _(client):
    (found,) = answers(client, [client.infer_message("add_sub", [A, B], id="1")])
    expect_equal(found.error_message, "", "error_message")
    expect_equal(found.infer_response.id, "1", "the id")
    expect_message(found.infer_response, SUM)
    expect_message(found.infer_response, DIFFERENCE)


@rpc.check("grpc.stream.many", SECTION, "each of many, with its id", identity("INT32"))
def _(client):
    requests = [client.infer_message(identity("INT32"), [tensor("INPUT0", "INT32", (1, 2), [number, -number])], id=str(number))
                for number in range(50)]
    found = {answer.infer_response.id: answer.infer_response for answer in answers(client, requests)}
    expect(len(found) == 50, "50 ids", sorted(found))
    for number in range(50):
        expect_message(found[str(number)], tensor("OUTPUT0", "INT32", (1, 2), [number, -number]))


@rpc.check("grpc.stream.error", SECTION, "a refused request gets an error_message, and the stream goes on", "add_sub")
def _(client):
    bad = client.infer_message("add_sub", [A], id="bad")
    found = answers(client, [bad, client.infer_message("add_sub", [A, B], id="good")])
    errors = [answer for answer in found if answer.error_message]
    good = [answer for answer in found if not answer.error_message]
    expect(len(errors) == 1 and len(good) == 1, "one error and one answer", [answer.error_message for answer in found])
    expect_equal(good[0].infer_response.id, "good", "the id")
    expect_message(good[0].infer_response, SUM)


@rpc.check("grpc.stream.error.id", SECTION, "an error carries the id of its request", "add_sub", level=SHOULD)
def _(client):
    (found,) = answers(client, [client.infer_message("add_sub", [A], id="bad")])
    expect(found.error_message, "an error_message", "none")
    expect_equal(found.infer_response.id, "bad", "the id")


@rpc.check("grpc.stream.empty", SECTION, "a stream without requests ends well")
def _(client):
    answers(client, [])


@rpc.check("grpc.stream.models", SECTION, "requests of one stream may be for several models", "add_sub", "transpose")
def _(client):
    found = answers(client, [client.infer_message("add_sub", [A, B], id="a"), client.infer_message("transpose", [MATRIX], id="t")])
    by_id = {answer.infer_response.id: answer.infer_response for answer in found}
    expect(set(by_id) == {"a", "t"}, "a and t", sorted(by_id))
    expect_message(by_id["a"], SUM)
    expect_message(by_id["t"], TRANSPOSED)
