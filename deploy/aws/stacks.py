"""Stacks of CloudFormation: made, changed and deleted with a line for each step, and one line for what goes wrong."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from deploy.aws.includes import HERE

Say = Callable[[str], None]
Stack = dict[str, Any]  # as CloudFormation describes it

_PAUSE_SECONDS = 3.0
# States that no update leads out of: what has happened, and the command of the AWS CLI that does.
_STUCK = {
    **dict.fromkeys(("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED"), ("did not come up", "delete-stack")),
    "UPDATE_ROLLBACK_FAILED": ("could not go back from a change", "continue-update-rollback"),
    "DELETE_FAILED": ("was not deleted as a whole", "delete-stack"),
}
_BEGINNINGS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")
_QUOTA = ("limit", "quota", "maximum number", "vcpu", "too many")


class DeployError(Exception):
    """What is wrong, and the way out, in one line."""


def _parameters(template: str) -> list[str]:
    """The names of a template's parameters."""
    section = re.split(r"^(?=\S)", template.partition("\nParameters:\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^  (\w+):", section, re.MULTILINE)


class Stacks:
    """The stacks of one account and region. All methods raise DeployError, and ClientError for what AWS refuses."""

    def __init__(self, cloudformation: Any, say: Say, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._client = cloudformation
        self._say = say
        self._pause = pause_seconds

    async def find(self, name: str) -> Stack | None:
        """The stack as AWS describes it; None if there is none."""
        try:
            answer = await self._client.describe_stacks(StackName=name)
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise
        stack: Stack = answer["Stacks"][0]
        return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack

    async def outputs(self, name: str) -> dict[str, str]:
        """What the stack says of itself; raises DeployError if it is not there."""
        stack = await self.find(name)
        if stack is None:
            raise DeployError(
                f"there is no stack {name} in this account and region: `python -m deploy.aws up` makes it"
            )
        if not stack.get("Outputs"):
            raise DeployError(f"the stack {name} is in {stack['StackStatus']}, without outputs: it did not come up yet")
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    async def names(self, prefix: str) -> list[str]:
        """Stacks whose names begin so, oldest first."""
        stacks = [
            stack
            async for page in self._client.get_paginator("describe_stacks").paginate()
            for stack in page["Stacks"]
            if stack["StackName"].startswith(prefix) and stack["StackStatus"] != "DELETE_COMPLETE"
        ]
        return [stack["StackName"] for stack in sorted(stacks, key=lambda stack: stack["CreationTime"])]

    async def make(self, name: str, template: str, given: Mapping[str, str]) -> dict[str, str]:
        """Create the stack, or change it to the template and what is given, the rest as it was; returns its outputs."""
        stack = await self._settled(name)
        body = (HERE / f"{template}.yaml").read_text()
        known = _parameters(body)
        if unknown := sorted(given.keys() - set(known)):
            raise DeployError(f"{template}.yaml has no parameter {unknown[0]}; it has {', '.join(known)}")
        before = {} if stack is None else {found["ParameterKey"] for found in stack.get("Parameters", [])}
        parameters: list[dict[str, Any]] = [
            {"ParameterKey": key, "ParameterValue": value} for key, value in given.items()
        ]
        parameters += [
            {"ParameterKey": key, "UsePreviousValue": True} for key in known if key in before and key not in given
        ]
        change = {
            "StackName": name,
            "TemplateBody": body,
            "Parameters": parameters,
            "Capabilities": ["CAPABILITY_IAM"],
        }
        if stack is None:
            self._say(f"{name}: create")
            answer = await self._client.create_stack(**change)
            await self._follow(answer["StackId"], name)
        else:
            try:
                answer = await self._client.update_stack(**change)
            except ClientError as error:
                if "No updates are to be performed" not in str(error):
                    raise
                self._say(f"{name}: nothing to change")
            else:
                self._say(f"{name}: change")
                await self._follow(answer["StackId"], name)
        return await self.outputs(name)

    async def delete(self, name: str) -> bool:
        """Delete the stack, and wait until it is gone; returns whether it was there."""
        stack = await self.find(name)
        if stack is None:
            return False
        self._say(f"{name}: delete")
        await self._client.delete_stack(StackName=name)
        await self._follow(stack["StackId"], name)
        return True

    async def _settled(self, name: str) -> Stack | None:
        """The stack, once nothing is going on with it."""
        stack = await self.find(name)
        if stack is None:
            return None
        if stack["StackStatus"].endswith("IN_PROGRESS"):
            self._say(f"{name}: wait for what is going on ({stack['StackStatus']})")
            await self._follow(stack["StackId"], name)
            stack = await self.find(name)
        if stack is not None and stack["StackStatus"] in _STUCK:
            what, way_out = _STUCK[stack["StackStatus"]]
            why = await self._first_failure(stack["StackId"], name)
            raise DeployError(
                f"the stack {name} is in {stack['StackStatus']}: it {what} ({why}); fix that, run `aws cloudformation "
                f"{way_out} --stack-name {name}`, and repeat"
            )
        return stack

    async def _follow(self, stack_id: str, name: str) -> None:
        """Tell of the stack's resources until it is settled; raises DeployError if that is not what was wanted."""
        done: set[str] = set()
        started = datetime.now().timestamp()
        while True:
            answer = await self._client.describe_stacks(StackName=stack_id)
            status = answer["Stacks"][0]["StackStatus"]
            for resource in (await self._client.describe_stack_resources(StackName=stack_id))["StackResources"]:
                logical = resource.get("LogicalResourceId", "")
                if resource["ResourceStatus"].endswith("_COMPLETE") and logical not in done and "IN_PROGRESS" in status:
                    done.add(logical)
                    self._say(f"  {name}: {logical} ({datetime.now().timestamp() - started:.0f} s)")
            if not status.endswith("IN_PROGRESS"):
                break
            await asyncio.sleep(self._pause)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"):
            raise DeployError(f"the stack {name} ended in {status}: {await self._first_failure(stack_id, name)}")
        self._say(f"{name}: {status} after {datetime.now().timestamp() - started:.0f} s")

    async def _first_failure(self, stack_id: str, name: str) -> str:
        """Of what was done with the stack last."""
        first = None
        async for event in self._events(stack_id):  # the newest comes first
            if event["ResourceStatus"].endswith("_FAILED"):
                first = event
            elif event["LogicalResourceId"] == name and event["ResourceStatus"] in _BEGINNINGS:
                break
        if first is None:
            return "CloudFormation says no reason"
        reason = str(first.get("ResourceStatusReason", "no reason is given"))
        hint = ""
        if any(word in reason.lower() for word in _QUOTA):
            hint = "; it may be a quota: ask for more in Service Quotas"
        return f"{first['LogicalResourceId']}: {reason}{hint}"

    async def _events(self, stack_id: str) -> AsyncIterator[dict[str, Any]]:
        async for page in self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
            for event in page["StackEvents"]:
                yield event
