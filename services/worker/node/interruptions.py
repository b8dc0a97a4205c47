"""What EC2 and Auto Scaling announce to an instance: that they end it, or may end it soon."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NoReturn

import structlog

from services.worker.node.imds import Imds, ImdsUnavailable

log = structlog.get_logger()

POLL_SECONDS = 5.0
_SPOT_NOTICE = timedelta(seconds=120)  # that EC2 gives at least


@dataclass(frozen=True, slots=True)
class Interruption:
    """`ends_at` is when EC2 ends the instance; None: it does not say."""

    kind: Literal["spot_interruption", "group_ends_it", "rebalance", "scheduled_event"]
    reason: str
    ends_at: datetime | None = None


async def watch(imds: Imds, note: Callable[[Interruption], None]) -> NoReturn:
    """Have each announcement noted, once, until cancelled. A service that does not answer announces nothing."""
    known: set[Interruption] = set()
    answers = True
    while True:
        try:
            found = await find_interruptions(imds)
        except ImdsUnavailable as error:
            if answers:
                log.warning("instance metadata not read, trying again", error=str(error))
            answers, found = False, []
        else:
            answers = True
        for interruption in found:
            if interruption not in known:
                known.add(interruption)
                log.warning("interruption announced", kind=interruption.kind, reason=interruption.reason)
                note(interruption)
        await asyncio.sleep(POLL_SECONDS)


async def find_interruptions(imds: Imds) -> list[Interruption]:
    """All that is announced now. Raises ImdsUnavailable."""
    spot, group, rebalance, events = await imds.read(
        "spot/instance-action",
        "autoscaling/target-lifecycle-state",
        "events/recommendations/rebalance",
        "events/maintenance/scheduled",
    )
    found = [_of_spot(spot), _of_group(group), _of_rebalance(rebalance), *_of_events(events)]
    return [interruption for interruption in found if interruption is not None]


def _of_spot(text: str | None) -> Interruption | None:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html"""
    if text is None:
        return None
    notice = _parse(text)
    action, at = "terminate", None
    if isinstance(notice, dict):
        action = str(notice.get("action", action))
        try:
            at = datetime.fromisoformat(str(notice["time"]))
        except (KeyError, ValueError):
            log.warning("time of a Spot interruption not read", notice=text)
    said = f" at {at:%H:%M:%S} UTC" if at is not None else ""
    ends_at = datetime.now(UTC) + _SPOT_NOTICE if at is None else at
    return Interruption("spot_interruption", f"EC2 takes its Spot instance back ({action}){said}", ends_at)


def _of_group(text: str | None) -> Interruption | None:
    """https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html"""
    if text is None or not text.endswith("Terminated"):
        return None
    return Interruption("group_ends_it", "its Auto Scaling group ends its instance")


def _of_rebalance(text: str | None) -> Interruption | None:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html"""
    if text is None:
        return None
    return Interruption("rebalance", "EC2 recommends to replace its Spot instance, which it may soon take back")


def _of_events(text: str | None) -> list[Interruption]:
    """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-instances-status-check_sched.html"""
    events = _parse(text) if text else []
    found = []
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, dict) or event.get("State", "active") != "active":
            continue
        code, begins = str(event.get("Code", "event")), str(event.get("NotBefore", ""))
        try:
            ends_at = parsedate_to_datetime(begins).astimezone(UTC)
        except ValueError:
            ends_at = None
        found.append(Interruption("scheduled_event", f"EC2 has scheduled {code} for its instance: {begins}", ends_at))
    return found


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        log.warning("instance metadata is not JSON", text=text)
        return None
