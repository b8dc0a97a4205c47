"""ministack as it comes, and one thing more: of a database in a stack, the secret with its owner's password.

It makes that for clusters alone. Runs in .venv-cloud, so it imports nothing else of ours.
"""

import json
from typing import Any

from ministack import app
from ministack.core.responses import new_uuid
from ministack.services import secretsmanager
from ministack.services.cloudformation import provisioners

_attributes = provisioners._rds_db_instance_attrs
_secrets: dict[str, str] = {}


def _attributes_with_secret(instance: dict[str, Any]) -> dict[str, Any]:
    name = instance["DBInstanceIdentifier"]
    if name not in _secrets:
        value = json.dumps({"username": instance["MasterUsername"], "password": new_uuid()})
        _secrets[name] = secretsmanager.create_secret_in_process(f"rds!db-{new_uuid()}", value)
    return {**_attributes(instance), "MasterUserSecret.SecretArn": _secrets[name]}


provisioners._rds_db_instance_attrs = _attributes_with_secret

if __name__ == "__main__":
    app.main()
