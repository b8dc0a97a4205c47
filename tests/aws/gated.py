"""A gate with the deployment's own policies in front of an emulator, for a grid of some name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.local.emulator import Emulator
from services.platform.aws import Aws
from tests.aws.gate.calls import ACCOUNT, REGION
from tests.aws.gate.gate import Gate
from tests.aws.gate.policy import Policies
from tests.aws.roles import policies_of
from tests.storm.journal import Journal

POOL = "default"


def roles_of(grid: str) -> dict[str, Policies]:
    """The policies of each service of the grid, whose bucket has the grid's name, and of its pool's workers."""
    names = {
        "Grid": grid,
        "Pool": POOL,
        "Bucket": grid,
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
    }
    roles = {name: Policies({name: document}) for name, document in policies_of(names.__getitem__).items()}
    return roles | {"stats": Policies({})}  # which needs nothing of AWS


@asynccontextmanager
async def gate_before(emulator: Emulator, aws: Aws, roles: dict[str, Policies], directory: Path) -> AsyncIterator[Gate]:
    """Open for the time of the context; `aws` goes past it."""
    journal = Journal(directory / "gate.jsonl")
    gate = Gate(emulator.url, journal, aws, roles)
    await gate.start()
    try:
        yield gate
    finally:
        await gate.stop()
        journal.close()
