"""A gate with the deployment's own policies in front of an emulator, for a grid of some name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from deploy.local.emulator import Emulator
from tests.aws.gate.calls import ACCOUNT, REGION
from tests.aws.gate.gate import Gate
from tests.aws.gate.policy import Policies
from tests.aws.roles import optional_policies_of, policies_of
from tests.storm.journal import Journal

POOL = "default"


def roles_of(grid: str, reads: str | None = None, task_role: str | None = None) -> dict[str, Policies]:
    """The policies of each service of the grid, whose bucket has the grid's name, and of its pool's workers.

    All may also read the objects whose ARN is like `reads`, as an operator would let them by an extra policy. Tasks of
    the pool have the role `task_role`.
    """
    names = {
        "Grid": grid,
        "Pool": POOL,
        "Bucket": grid,
        "AWS::Partition": "aws",
        "AWS::Region": REGION,
        "AWS::AccountId": ACCOUNT,
    }
    extra = {"extra": _reading(reads)} if reads else {}
    documents = {name: {name: document} | extra for name, document in policies_of(names.__getitem__).items()}
    if task_role is not None:
        names |= {"TaskRoleArn": task_role, "KmsKeyArn": "", "AWS::URLSuffix": ""}
        options = optional_policies_of(names.__getitem__)
        documents["worker"]["tasks"] = options["tasks"]
    roles = {name: Policies(each) for name, each in documents.items()}
    return roles | {"stats": Policies({})}  # which needs nothing of AWS


def _reading(resource: str) -> dict[str, Any]:
    statement = {"Sid": "ReadOwnData", "Effect": "Allow", "Action": "s3:GetObject", "Resource": resource}
    return {"Version": "2012-10-17", "Statement": [statement]}


@asynccontextmanager
async def gate_before(emulator: Emulator, roles: dict[str, Policies], directory: Path) -> AsyncIterator[Gate]:
    """Open for the time of the context."""
    journal = Journal(directory / "gate.jsonl")
    gate = Gate(emulator.url, journal, roles)
    await gate.start()
    try:
        yield gate
    finally:
        await gate.stop()
        journal.close()
