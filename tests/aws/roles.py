"""The services' policies, as the templates give them to roles, with names for what only a deployment knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deploy
from deploy.aws.template import Names, Template

TEMPLATES = Path(deploy.__file__).parent / "aws"

# The roles whose policies are named as the services, and the template that makes each.
_ROLES = {"ControlRole": "grid", "Role": "pool"}
_SERVICES = ("api", "scheduler", "worker")

Document = dict[str, Any]


def policies_of(names: Names) -> Mapping[str, Document]:
    """Each service's policy document."""
    documents = {}
    for role, name in _ROLES.items():
        template = Template(TEMPLATES / f"{name}.yaml")
        for policy in template.resources()[role]["Properties"]["Policies"]:
            if policy.get("PolicyName") in _SERVICES:
                documents[policy["PolicyName"]] = template.resolve(policy["PolicyDocument"], names)
    return documents


def optional_policies_of(names: Names) -> Mapping[str, Document]:
    """Those of a pool's nodes that parameters ask for: `tasks` and `key`."""
    template = Template(TEMPLATES / "pool.yaml", {"TaskRoleArn": "arn:…", "KmsKeyArn": "arn:…"})
    found = [made["Properties"] for made in template.resources().values() if made["Type"] == "AWS::IAM::Policy"]
    return {each["PolicyName"]: template.resolve(each["PolicyDocument"], names) for each in found}
