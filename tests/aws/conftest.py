"""Both emulators of AWS with all their services, and clients of any of them: what a deployment is tested on."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from deploy.local.emulator import AWS_ENVIRONMENT, Emulator
from deploy.local.process import ROOT
from tests.conftest import free_port, running
from tests.emulators import NAMES, Moto

Client = Callable[[str], Any]


class WholeMinistack(Emulator):
    """ministack with every service that it has, newer and nearly as it comes; the local stack needs few of them."""

    command = [str(ROOT / ".venv-cloud/bin/python"), "-m", "tests.aws.ministack_server"]

    def __init__(self, port: int) -> None:
        super().__init__(port)
        del self.environment["SERVICES"]


@pytest.fixture(scope="session")
def whole_ministack() -> Iterator[Emulator]:
    yield from running(WholeMinistack(free_port()))


@pytest.fixture(scope="session")
def whole_moto() -> Iterator[Emulator]:
    yield from running(Moto(free_port()))


@pytest.fixture(scope="session", params=NAMES)
def cloud(request: pytest.FixtureRequest) -> Emulator:
    """Each emulator in turn."""
    emulator: Emulator = request.getfixturevalue(f"whole_{request.param}")
    return emulator


def client_of(emulator: Emulator) -> Client:
    """Opens a client of any service of an emulator: `client_of(emulator)("iam")`."""
    session = boto3.Session(
        AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        region_name=AWS_ENVIRONMENT["AWS_DEFAULT_REGION"],
    )
    return lambda service: session.client(service, endpoint_url=emulator.url)
