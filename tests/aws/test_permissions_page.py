"""docs/permissions.md has the policies that the roles have.

`WRITE_TABLE=1 make test-aws TESTS=tests/aws/test_permissions_page.py` writes them again.
"""

import json
import os
import re
from pathlib import Path

from tests.aws.roles import optional_policies_of, policies_of

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
HEADINGS = {
    "api": "API",
    "scheduler": "Scheduler",
    "worker": "Workers of a pool",
    "tasks": "Workers whose tasks have a role of their own",
    "key": "All of them, with a key of KMS",
}

_PLACEHOLDERS = {
    "AWS::Partition": "aws",
    "AWS::Region": "REGION",
    "AWS::AccountId": "ACCOUNT",
    "AWS::URLSuffix": "amazonaws.com",
    "TaskRoleArn": "arn:aws:iam::ACCOUNT:role/ROLE",
    "KmsKeyArn": "arn:aws:kms:REGION:ACCOUNT:key/KEY",
}


def _placeholder(name: str) -> str:
    return _PLACEHOLDERS.get(name, name.upper())


def written() -> str:
    """The page with the policies of now."""
    page = PAGE.read_text()
    documents = {**policies_of(_placeholder), **optional_policies_of(_placeholder)}
    for service, heading in HEADINGS.items():
        block = f"## {heading}\n\n```json\n{json.dumps(documents[service], indent=2)}\n```\n"
        found = re.search(rf"^## {heading}\n(\n```json\n.*?\n```\n)?", page, re.MULTILINE | re.DOTALL)
        assert found, f"{PAGE.name} has no heading {heading}"
        page = page.replace(found[0], block)
    return page


def test_the_page_has_the_policies_of_the_roles() -> None:
    if os.environ.get("WRITE_TABLE"):
        PAGE.write_text(written())
    assert PAGE.read_text() == written(), "write it again: see above"
