"""Ends this node's instance when the node is drained, so that it does not bill on with nothing to do.

Auto Scaling refuses to make a group smaller than its MinSize, may not know the instance, or may not be reached: then
the next way is tried, and the machine's own power is the last one.
"""

import asyncio
import shlex
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, NoReturn

import structlog
from botocore.exceptions import ClientError

from services.platform import effects
from services.platform.s3_faults import error_code
from services.worker.node.outage import in_time

log = structlog.get_logger()

_TRY_SECONDS = 15.0
_BEAT_SECONDS = 20.0  # the shortest time-out that a lifecycle hook can have is 30 s
_COMPLETE_SECONDS = 60.0  # an instance that is just being ended takes some to reach its hook
_PAUSE_SECONDS = 2.0


class InstanceNotEnded(Exception):
    """Every way to end this machine's instance has failed: it runs on, and bills."""


async def end_instance(autoscaling: Any, instance_id: str, *, replace: bool, power_off: str | None) -> None:
    """Terminate this machine; the group gets smaller by it, or replaces it. Raises InstanceNotEnded.

    https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_TerminateInstanceInAutoScalingGroup.html
    """
    ways: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = [
        ("terminated, and the group is smaller", partial(_terminate, autoscaling, instance_id, decrement=True)),
        ("terminated, and replaced by the group", partial(_terminate, autoscaling, instance_id, decrement=False)),
        ("given to the group as unhealthy", partial(_mark_unhealthy, autoscaling, instance_id)),
    ]
    if power_off is not None:
        ways.append(("powered off", partial(_power_off, power_off)))
    for way, end in ways[replace:]:
        try:
            await in_time(end(), _TRY_SECONDS)
        except Exception as error:
            log.error("instance not ended", instance=instance_id, way=way, error=repr(error))
        else:
            log.info("instance ended", instance=instance_id, way=way)
            return
    raise InstanceNotEnded(f"the instance {instance_id} could not be ended, and bills on: see the log for each way")


async def _terminate(autoscaling: Any, instance_id: str, *, decrement: bool) -> None:
    await autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=instance_id, ShouldDecrementDesiredCapacity=decrement
    )


async def _mark_unhealthy(autoscaling: Any, instance_id: str) -> None:
    await autoscaling.set_instance_health(
        InstanceId=instance_id, HealthStatus="Unhealthy", ShouldRespectGracePeriod=False
    )


async def _power_off(command: str) -> None:
    """Raises OSError, ValueError."""
    program, *arguments = shlex.split(command)
    with effects.passing("process", "power off"):
        process = await asyncio.create_subprocess_exec(program, *arguments, stdin=asyncio.subprocess.DEVNULL)
    if code := await process.wait():
        raise OSError(f"{command!r} ended with exit code {code}")


class LifecycleHook:
    """The hook by which the group waits for this instance before it ends it.

    https://docs.aws.amazon.com/autoscaling/ec2/userguide/lifecycle-hooks.html
    """

    def __init__(self, autoscaling: Any, *, hook: str, group: str, instance_id: str) -> None:
        self._autoscaling = autoscaling
        self._names = {"LifecycleHookName": hook, "AutoScalingGroupName": group, "InstanceId": instance_id}

    async def hold(self) -> NoReturn:
        """Keep the group waiting until cancelled."""
        while True:
            try:
                await in_time(self._beat(), _TRY_SECONDS)
            except Exception as error:
                log.warning("group not kept waiting", **self._names, error=repr(error))
            await asyncio.sleep(_BEAT_SECONDS)

    async def complete(self) -> None:
        """Let the group end the instance now; if that can't be said, it does when the hook's time is over."""
        ends_at = asyncio.get_running_loop().time() + _COMPLETE_SECONDS
        while True:
            try:
                await in_time(self._complete(), _TRY_SECONDS)
            except Exception as error:
                not_yet = isinstance(error, ClientError) and error_code(error) == "ValidationError"
                if not not_yet or asyncio.get_running_loop().time() > ends_at:
                    log.error("lifecycle action not completed", **self._names, error=repr(error))
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                log.info("lifecycle action completed", **self._names)
                return

    async def _beat(self) -> None:
        await self._autoscaling.record_lifecycle_action_heartbeat(**self._names)

    async def _complete(self) -> None:
        await self._autoscaling.complete_lifecycle_action(**self._names, LifecycleActionResult="CONTINUE")
