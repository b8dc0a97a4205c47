"""The emulators of AWS that tests run against, and which operations of AWS the services call.

Tests use ministack, as the local stack does. Those marked `both_emulators` run against moto as well, so that no code
rests on the habits of one emulator. The mark's arguments are operations that the services must call in the test. By
name, an emulator has the reason why it fails the test, which is then expected: what only the other one does as AWS
does it. tests/integration/test_both_emulators.py holds that the marks of all tests together name every operation that
the services call.
"""

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore import xform_name
from botocore.session import get_session

from deploy.local.emulator import Emulator
from services.platform import aws, effects, s3_fast_path
from services.platform.effects import Effect, Moment

SERVICES = Path(aws.__file__).parents[1]
NAMES = ("ministack", "moto")

_GATE = (aws.__name__, effects.__name__, s3_fast_path.__name__)
_CLIENTS = ("s3", "sqs", "autoscaling", "secretsmanager", "ssm", "sns")  # of services.platform.aws


class Moto(Emulator):
    """A server process of moto, which has no state on disk and starts empty."""

    health = "/moto-api/"

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.environment["PYTHONDONTWRITEBYTECODE"] = ""  # it is large, and nothing else has compiled it
        self.command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def operations_of_services() -> dict[str, str]:
    """Every AWS operation that the services call by an attribute of a client, and one of the places that do."""
    methods = _methods()
    calls: dict[str, str] = {}
    for path in SERVICES.rglob("*.py"):
        for method, line in _client_attributes(path):
            if method in methods:
                calls[methods[method]] = f"{path.relative_to(SERVICES.parent)}:{line}"
    return calls


def _methods() -> dict[str, str]:
    """Operations by the name of the client's method."""
    session = get_session()
    models = [session.get_service_model(name) for name in _CLIENTS]
    return {xform_name(operation): operation for model in models for operation in model.operation_names}


def _client_attributes(path: Path) -> Iterator[tuple[str, int]]:
    """What a module names of a client: attributes of `s3`, `self._s3`, `context.aws.sqs` …, and paginators."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name)) if name.strip("_") in _CLIENTS:
                yield node.attr, node.lineno
            case ast.Call(func=ast.Attribute(attr="get_paginator"), args=[ast.Constant(value=str(method))]):
                yield method, node.lineno


@contextmanager
def recording() -> Iterator[set[str]]:
    """The AWS operations that the services call in this process for the time of the context, and no test itself."""
    called: set[str] = set()

    def see(moment: Moment, effect: Effect) -> None:
        if moment == "before" and effect.kind in _CLIENTS and _is_call_of_services():
            called.add(effect.name)

    effects.watch(see)
    try:
        yield called
    finally:
        effects.watch(None)


def _is_call_of_services() -> bool:
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("services.") and module not in _GATE:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
