"""What a check is, and the list of all.

A check is a function of one argument, the `Client` of the run. It returns when the server did what is required, raises
`Failed` when it did not, and `NotApplicable` when there is nothing to check.
"""

import dataclasses
from collections.abc import Callable

MUST = "must"  # the specification says so
SHOULD = "should"  # clients in use depend on it, or HTTP or gRPC say so


class Failed(Exception):
    """What the specification requires, and what came instead."""

    def __init__(self, expected, found):
        super().__init__(f"expected {expected}, found {found}")
        self.expected, self.found = str(expected), str(found)


class NotApplicable(Exception):
    """Why there is nothing to check."""


@dataclasses.dataclass(frozen=True)
class Check:
    id: str
    group: str  # a section of the report
    section: str  # the specification's heading
    requirement: str  # in words of our own
    level: str
    transport: str  # "http" or "grpc"
    feature: str | None  # of an extension; None: what every server has
    models: tuple  # fixture models without which there is nothing to check
    run: Callable


CHECKS: dict[str, Check] = {}


class Group:
    """Registers the checks of one section of the report."""

    def __init__(self, name, transport, feature=None):
        self.name, self.transport, self.feature = name, transport, feature

    def check(self, identifier, section, requirement, *models, level=MUST, run=None):
        """A decorator; or, with `run`, a call."""
        def register(function):
            assert identifier not in CHECKS, identifier
            CHECKS[identifier] = Check(identifier, self.name, section, requirement, level, self.transport, self.feature,
                                       models, function)
            return function
        return register(run) if run else register


def shown(value, limit=300):
    """A value for a message: not longer than a few lines."""
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def expect(condition, expected, found):
    if not condition:
        raise Failed(shown(expected), shown(found))


def expect_equal(found, expected, what):
    expect(found == expected and type(found) is type(expected), f"{what} {shown(expected)}", shown(found))
