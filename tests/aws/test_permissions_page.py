"""docs/permissions.md has the policies that the roles have.

`WRITE_TABLE=1 make test-aws TESTS=tests/aws/test_permissions_page.py` writes them again.
"""

import json
import os
import re
from pathlib import Path

from tests.aws.roles import policies_of

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"
HEADINGS = {"api": "API", "scheduler": "Scheduler", "worker": "Workers of a pool"}

_PLACEHOLDERS = {"AWS::Partition": "aws", "AWS::Region": "REGION", "AWS::AccountId": "ACCOUNT"}


def written() -> str:
    """The page with the policies of now."""
    page = PAGE.read_text()
    documents = policies_of(lambda name: _PLACEHOLDERS.get(name, name.upper()))
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
