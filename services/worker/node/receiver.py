"""From the pool's queue to the slots: receive messages, claim their bundles, delete the messages.

A message is deleted only after its claim has committed, or if it has nothing left to claim. After a crash in
between, the message comes back, and a second claim gives nothing.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import UUID

import structlog

from services.contract.message import Message, MessageError
from services.contract.resources import Needs
from services.engine import transitions
from services.engine.attempt import ClaimedTask, StageWork
from services.engine.pools import PoolQueues
from services.engine.stages import StageGone, StageUnreadable
from services.platform import tracing
from services.platform.database import Database
from services.platform.health import watched
from services.worker.node.bundles import Bundles
from services.worker.node.completer import Completer
from services.worker.node.outage import Outage, in_time
from services.worker.node.pace import StageKey
from services.worker.node.room import Part
from services.worker.node.slots import Slots
from services.worker.node.stages import Stages
from services.worker.node.turn_down import turn_down

log = structlog.get_logger()

_MESSAGES_MAX = 10  # most messages of one receive (SQS)
_BACKLOG_MAX = 20_000  # unreported attempts; beyond that, take no more work
_STOCK_SECONDS = 0.5  # stock of short tasks, so that slots never starve between two receives
_SHORT_SECONDS = 1.0
_CLAIM_SECONDS = 10.0  # that a claim may take; all tries end well within the queue's visibility timeout (30 s)
_PASS_SECONDS = 1  # delay before another worker gets a message that this one must not take, or has no room for
_RESERVE_SECONDS = 60.0  # that a bundle stays reserved, unless its worker says so again
_RENEW_SECONDS = 15.0
_WAITED_SECONDS = 5.0  # that a bundle has looked for room before a worker reserves some
_SEEN_SECONDS = 60.0  # that bundles which ask for a part of the node are looked for while no slot is free
_OUTAGE_SECONDS = 10  # delay before anybody gets a message that could not be claimed: receives are counted (DLQ)
_SMOOTHING = 0.2  # weight of the newest message in a moving average

T = TypeVar("T")


def messages_wanted(
    *,
    slots: int,
    busy: int,
    waiting: int,
    task_seconds: float | None,
    longest_running_seconds: float,
    bundle_tasks: float,
) -> int:
    """How many messages to ask for, 0 to 10: enough to fill the free slots, and for short tasks a small stock.

    `task_seconds` is the expected time of a task of the next message; None if it is unknown.
    """
    tasks = float(slots - busy - waiting)
    if task_seconds and max(task_seconds, longest_running_seconds) < _SHORT_SECONDS:
        tasks = max(tasks, _STOCK_SECONDS * slots / task_seconds - waiting)
    return max(0, min(_MESSAGES_MAX, math.ceil(tasks / bundle_tasks)))


def choose(
    messages: Iterable[Message],
    *,
    slots_free: int,
    stock_seconds: float,
    seconds_of: Callable[[StageKey], float | None],
) -> list[Message]:
    """The messages to claim: they fill the free slots and, with tasks known to be short here, the stock.

    Other tasks are never claimed before a slot is free for them: another worker may have a free one.
    """
    chosen: list[Message] = []
    for message in messages:
        seconds = seconds_of((message.job_id, message.stage))
        is_short = seconds is not None and seconds < _SHORT_SECONDS
        if slots_free > 0 or (is_short and stock_seconds > 0):
            chosen.append(message)
            slots_free -= message.count
            stock_seconds -= message.count * (seconds or 0.0)
    return chosen


def _trace(stage: StageWork, tasks: Sequence[ClaimedTask], began_ns: int) -> None:
    """A span for the claim of a bundle."""
    with tracing.span(
        "claim",
        stage.traceparent,
        kind="consumer",
        recorded=tracing.has_spans(tasks[0].index),
        started_ns=began_ns,
        job=stage.job_id,
        stage=stage.stage,
        tasks=len(tasks),
    ):
        pass


class Receiver:
    """The only loop of a node that talks to SQS."""

    def __init__(
        self,
        *,
        database: Database,
        database_outage: Outage,
        sqs: Any,
        queues: PoolQueues,
        worker_id: UUID,
        wait_seconds: int,
        bundles: Bundles,
        slots: Slots,
        completer: Completer,
        lacks: Callable[[StageWork], str | None],
    ) -> None:
        """`lacks` says what this node has not, but a stage's tasks need."""
        self._database = database
        self._lacks = lacks
        self._sqs = sqs
        self._queues = queues
        self._worker_id = worker_id
        self._wait_seconds = wait_seconds
        self._bundles = bundles
        self._slots = slots
        self._completer = completer
        self._stages = Stages(database)
        self._bundle_tasks = 1.0  # moving average of the tasks per message
        self._last_stage: StageKey | None = None  # of the last message: the next one is likely to be of it too
        self._parts: dict[UUID, Part] = {}  # of bundles that are being claimed
        self._seen: dict[Needs, float] = {}  # what bundles asked for, and when the last such one was offered
        self._homeless: Message | None = None  # a bundle that has found no room here just now
        self._reserved: Message | None = None  # a bundle for which room is kept
        self._renewed_at = 0.0
        self._stopped = asyncio.Event()
        self._queue_outage = Outage("queue")
        self._database_outage = database_outage

    def stop(self) -> None:
        """Take no more. If a receive is cut off, its messages are offered again later."""
        self._stopped.set()

    async def run(self) -> None:
        """Run until stopped."""
        while not self._stopped.is_set():
            self._slots.progress.clear()
            if not self._database_outage.over.is_set():
                await self._unless_stopped(self._database_outage.over.wait())
            elif self._completer.backlog >= _BACKLOG_MAX:
                await self._unless_stopped(self._completer.flushed())
            elif self._reserved is not None and self._slots.has_reserved(self._needs_of(self._reserved)):
                await self._claim_reserved(self._reserved)
            elif wanted := self._wanted():
                messages = await self._unless_stopped(self._receive(wanted))
                await self._accept(messages or [])
                await self._keep_room()
            else:
                await self._unless_stopped(self._await_progress())
                await self._keep_room()

    async def _await_progress(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self._reserved is None else _RENEW_SECONDS):
                await self._slots.progress.wait()

    # Room for a bundle that finds none, because smaller ones take whatever gets free.

    async def _keep_room(self) -> None:
        """Reserve a bundle that has looked for room for a while, or go on with the one that is reserved."""
        message = self._reserved or self._homeless
        self._homeless = None
        if message is None or (self._reserved and time.monotonic() < self._renewed_at + _RENEW_SECONDS):
            return
        reserving = transitions.reserve(
            self._database,
            self._worker_id,
            message.bundle_id,
            seconds=_RESERVE_SECONDS,
            waited_seconds=_WAITED_SECONDS,
        )
        try:
            is_ours = await in_time(reserving, _CLAIM_SECONDS)
        except Exception as error:
            await self._database_outage.failed(error)
            return
        self._renewed_at = time.monotonic()
        if is_ours and self._reserved is None:
            log.info("room reserved", job=str(message.job_id), stage=message.stage, needs=str(message.needs))
        self._reserve(message if is_ours else None)

    def _reserve(self, message: Message | None) -> None:
        self._reserved = message
        self._slots.reserve(None if message is None else message.needs)

    async def _claim_reserved(self, message: Message) -> None:
        """Claim the bundle for which room was kept, without waiting for its message. Another may have it."""
        if self._take_part(message.bundle_id, self._needs_of(message)):
            if not await self._claim({message.bundle_id: message}):
                self._give_parts_back()
                return  # and try again
            self._give_parts_back()
        self._reserve(None)

    def _needs_of(self, message: Message) -> Needs:
        return message.needs or Needs()

    def _give_parts_back(self) -> None:
        """Those of bundles that others have."""
        for part in self._parts.values():
            self._slots.give_back(part)
        self._parts.clear()

    @property
    def _waiting(self) -> int:
        """Tasks that wait for a slot, including those whose attempts have started ahead of it."""
        return self._bundles.tasks_waiting + max(0, self._slots.wanted - self._slots.offered)

    def _wanted(self) -> int:
        if not self._slots.can_work:
            return 0
        for_slots = messages_wanted(
            slots=self._slots.offered,
            busy=min(self._slots.wanted, self._slots.offered),
            waiting=self._waiting,
            task_seconds=self._slots.pace.seconds_of(self._last_stage),
            longest_running_seconds=self._slots.longest_running_seconds,
            bundle_tasks=self._bundle_tasks,
        )
        return max(for_slots, self._wanted_for_parts()) if self._seen else for_slots

    def _wanted_for_parts(self) -> int:
        """How many messages to ask for because of those seen lately that there would be room for, though not in a
        slot."""
        seen_after = time.monotonic() - _SEEN_SECONDS
        self._seen = {needs: seen for needs, seen in self._seen.items() if seen > seen_after}
        return min(_MESSAGES_MAX, max(map(self._slots.room_for, self._seen), default=0))

    async def _unless_stopped(self, step: Coroutine[Any, Any, T]) -> T | None:
        """The step's result, or None if the receiver was stopped first."""
        working, stopping = asyncio.ensure_future(step), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.wait({working, stopping})

    @watched("receive")
    async def _receive(self, wanted: int) -> list[dict[str, Any]]:
        """The next messages: empty after the long poll or when SQS can't be reached."""
        try:
            answer = await self._sqs.receive_message(
                QueueUrl=self._queues.queue_url, MaxNumberOfMessages=wanted, WaitTimeSeconds=self._wait_seconds
            )
        except Exception as error:
            await self._queue_outage.failed(error)
            return []
        self._queue_outage.passed()
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    async def _accept(self, received: Sequence[dict[str, Any]]) -> None:
        """Claim the wanted messages and delete them; hand the others back, and all of them if the database is away.

        A claim may be repeated, whether or not the last one succeeded.
        """
        offers: dict[UUID, Message] = {}
        handles: dict[UUID, str] = {}
        done: list[str] = []
        passed: list[str] = []
        for raw in received:
            try:
                message = Message.decode(raw["Body"])
            except MessageError as error:
                if await self._bury(raw, error):
                    done.append(raw["ReceiptHandle"])
                continue
            if message.bundle_id in self._bundles or message.bundle_id in offers:
                done.append(raw["ReceiptHandle"])
            elif self._must_pass(message, offers.values()) or not self._make_room(message):
                passed.append(raw["ReceiptHandle"])
            else:
                offers[message.bundle_id], handles[message.bundle_id] = message, raw["ReceiptHandle"]
        returned = [handles[bundle_id] for bundle_id in self._refuse(offers)]
        await self._hand_back(returned, 0 if self._slots.offered else _PASS_SECONDS)
        await self._hand_back(passed, _PASS_SECONDS)
        give_up_at = asyncio.get_running_loop().time() + _CLAIM_SECONDS
        offered = [handles[bundle_id] for bundle_id in offers]
        while offers and not await self._claim(offers):
            if self._stopped.is_set() or asyncio.get_running_loop().time() > give_up_at:
                await self._hand_back(offered, _OUTAGE_SECONDS)
                offered = []
                break
        self._give_parts_back()
        if self._reserved is not None and self._reserved.bundle_id in offers:
            self._reserve(None)
        await self._delete(done + offered)

    def _make_room(self, message: Message) -> bool:
        """Take the part of the node that the bundle asks for, if it does. False if there is no room now, or never."""
        if message.needs is None:
            return True
        if not self._slots.may_hold(message.needs):
            return False
        self._seen[message.needs] = time.monotonic()
        if not self._take_part(message.bundle_id, message.needs):
            self._homeless = message
            return False
        return True

    def _take_part(self, bundle_id: UUID, needs: Needs) -> bool:
        reserved = self._reserved is not None and self._reserved.bundle_id == bundle_id
        if bundle_id not in self._parts and (part := self._slots.take(needs, reserved=reserved)) is not None:
            self._parts[bundle_id] = part
        return bundle_id in self._parts

    def _must_pass(self, message: Message, offers: Iterable[Message]) -> bool:
        """Whether only another worker may take it: what runs here or could not, or a second suspect."""
        if self._worker_id in (message.backup_of, message.avoid):
            return True
        return message.suspect and (self._bundles.hold_suspect or any(offer.suspect for offer in offers))

    def _refuse(self, offers: dict[UUID, Message]) -> list[UUID]:
        """Remove from the offers what other workers should run; returns the removed bundles."""
        pace, waiting = self._slots.pace, self._waiting
        waiting_seconds = waiting * (pace.seconds_of(self._last_stage) or 0.0)
        for_slots = [message for message in offers.values() if message.bundle_id not in self._parts]
        chosen = choose(
            for_slots,
            slots_free=self._slots.offered - self._slots.wanted - self._bundles.tasks_waiting,
            stock_seconds=_STOCK_SECONDS * self._slots.offered - waiting_seconds,
            seconds_of=pace.seconds_of,
        )
        kept = self._parts.keys() | {message.bundle_id for message in chosen}
        refused = [offers.pop(bundle_id) for bundle_id in offers.keys() - kept]
        if last := (refused or chosen)[-1:]:
            self._last_stage = (last[0].job_id, last[0].stage)
        return [message.bundle_id for message in refused]

    async def _load_stages(self, offers: Mapping[UUID, Message]) -> dict[UUID, StageWork]:
        """The stages of the bundles that can run here. Each of the others is handled alone: nothing waits for it."""
        stages: dict[UUID, StageWork] = {}
        for bundle_id, message in offers.items():
            try:
                stage = await self._stages.get(message.job_id, message.stage, message.revision)
                if (lack := self._lacks(stage)) is not None:
                    await turn_down(self._database, self._worker_id, message, lack)
                elif stage.needs is None or self._take_part(bundle_id, stage.needs):  # or it comes back with the resend
                    stages[bundle_id] = stage
            except StageGone:
                await transitions.drop_orphan(self._database, bundle_id)
            except StageUnreadable as error:
                await turn_down(self._database, self._worker_id, message, str(error))
        return stages

    @watched("claim")
    async def _claim(self, offers: dict[UUID, Message]) -> bool:
        """Claim the bundles and queue their tasks; False if the database can't be reached.

        While the outcome is unknown, the heartbeat must not treat these bundles as ones with a lost claim.
        """
        self._bundles.claiming = frozenset(offers)
        began_ns = time.time_ns()
        try:
            stages = await in_time(self._load_stages(offers), _CLAIM_SECONDS)
            jobs = {stage.job_id for stage in stages.values()}
            claiming = transitions.claim(self._database, self._worker_id, list(stages), jobs)
            tasks = await in_time(claiming, _CLAIM_SECONDS)
            self._database_outage.passed()
            bundles: defaultdict[UUID, list[ClaimedTask]] = defaultdict(list)
            for task in tasks:
                bundles[task.bundle_id].append(task)
            for bundle_id, bundle_tasks in bundles.items():
                await self._take(offers[bundle_id], stages[bundle_id], bundle_tasks)
                _trace(stages[bundle_id], bundle_tasks, began_ns)
        except Exception as error:
            await self._database_outage.failed(error)
            return False
        finally:
            self._bundles.claiming = frozenset()
        return True

    async def _take(self, message: Message, stage: StageWork, tasks: Sequence[ClaimedTask]) -> None:
        """Queue the tasks of a bundle, unless they are of another stage than its message says."""
        if (tasks[0].job_id, tasks[0].stage) != (message.job_id, message.stage):
            log.error("message names another stage than its bundle's", bundle=str(message.bundle_id))
            await transitions.abandon(self._database, self._worker_id, [message.bundle_id])
            return
        part = self._parts.pop(message.bundle_id, None)
        bundle = self._bundles.add(
            message.bundle_id,
            stage,
            tasks,
            suspect=message.suspect,
            alone=message.backup_of is not None,
            part=part,
        )
        if part is not None:
            self._slots.run_in_part(bundle, part)
        self._bundle_tasks += _SMOOTHING * (len(tasks) - self._bundle_tasks)

    async def _bury(self, raw: dict[str, Any], error: MessageError) -> bool:
        """Move an unreadable message to the dead-letter queue; False if that failed, so that it must come back."""
        try:
            await self._sqs.send_message(QueueUrl=self._queues.dead_letter_url, MessageBody=raw["Body"] or " ")
        except Exception as failure:
            log.warning("message not buried", message_id=raw["MessageId"], error=repr(failure))
            return False
        log.error("message buried", message_id=raw["MessageId"], error=str(error))
        return True

    async def _hand_back(self, receipt_handles: Sequence[str], seconds: int = 0) -> None:
        """Let other workers see these messages after `seconds`; if that fails, they see them later."""
        if not receipt_handles:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for number, handle in enumerate(receipt_handles)
        ]
        try:
            await self._sqs.change_message_visibility_batch(QueueUrl=self._queues.queue_url, Entries=entries)
        except Exception as error:
            log.info("messages not handed back", messages=len(entries), error=repr(error))

    async def _delete(self, receipt_handles: Sequence[str]) -> None:
        """Delete messages; one that is not deleted comes back and claims nothing."""
        if not receipt_handles:
            return
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(receipt_handles)]
        try:
            answer = await self._sqs.delete_message_batch(QueueUrl=self._queues.queue_url, Entries=entries)
        except Exception as error:
            log.info("messages not deleted", messages=len(entries), error=repr(error))
        else:
            if failed := answer.get("Failed"):
                log.info("messages not deleted", messages=len(failed), error=failed[0].get("Message"))
