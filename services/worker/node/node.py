"""The life of a node: register, work, drain, stop; and register again after a lost lease."""

import asyncio
import hashlib
import math
import os
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

import structlog

from services.contract.resources import Capacity
from services.contract.states import Isolation
from services.engine import pools, transitions, workers
from services.engine.attempt import AttemptReport
from services.engine.pools import PoolQueues
from services.engine.schema import check_schema
from services.engine.workers import UnknownPool
from services.inputs.reach import Reach as InputReach
from services.platform.aws import Aws, connect_aws
from services.platform.concurrency import is_cancelled
from services.platform.database import Database, UnknownSchema, check_pooled_sessions, connect_database, new_id
from services.platform.health import VITALS
from services.platform.settings import WorkerSettings
from services.platform.threads import in_own_thread
from services.platform.transfer import find_outage
from services.worker.isolation.cells import Cells
from services.worker.node.bundles import Bundles
from services.worker.node.completer import Completer
from services.worker.node.drain import Drain
from services.worker.node.heartbeat import Heartbeat, LeaseLost
from services.worker.node.imds import Instance, describe_machine, find_imds
from services.worker.node.instance_end import InstanceNotEnded, LifecycleHook, end_instance
from services.worker.node.interruptions import Interruption, watch
from services.worker.node.metrics import LEASES_LOST
from services.worker.node.outage import Outage, in_time
from services.worker.node.quarantine import Quarantine
from services.worker.node.receiver import Receiver
from services.worker.node.slots import Slots
from services.worker.node.storage import ASK_SECONDS
from services.worker.task.attempt import Equipment
from services.worker.task.containers import Containers, find_containers
from services.worker.task.credentials import LOOPBACK, RoleRefused, task_credentials
from services.worker.task.declared_inputs import DeclaredInputs
from services.worker.task.engine import EngineUnusable
from services.worker.task.environment import base_environment
from services.worker.task.hardware import Hardware
from services.worker.task.levels import strongest_cells
from services.worker.task.node_health import NodeHealth
from services.worker.task.packages import Packages, cache_directory
from services.worker.task.scratch import ScratchUnusable, scratch_directory
from services.worker.task.secrets import Secrets
from services.worker.task.share import Share

log = structlog.get_logger()

_AWS_TRIES = 3  # of a request; what waits for S3 or SQS tries again by itself
_REGISTER_SECONDS = 30.0  # of a try
_STOP_SECONDS = 5.0
_REPORT_SECONDS_MIN = 10.0  # to report what ended last, though the time to drain is over
_NAMED_MAX = 100  # attempts in a line of the log
_RESERVE_SECONDS = 30.0  # before EC2 ends the instance, for what follows the drain

# What becomes of the instance when the node has drained: its group gets smaller by it, replaces it, or ends it already.
Ending = Literal["stays", "leaves", "is replaced", "is being ended"]


class _Drained(Exception):
    """The node is drained: nothing is left to run or to report."""


class NodeUnfit(Exception):
    """The node can't run tasks; the message says why. Its supervisor may start it again after a while."""


class Node:
    """One worker process. Call `run` once; `drain` ends it in good order."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._isolation: Isolation | None = None  # not known yet
        self._instance = Instance(settings.instance_id)
        self._engine: str | None = None  # of containers
        self._drain = Drain()
        self._ending: Ending = "stays"
        self._group_ends_it = asyncio.Event()
        self._quarantine: str | None = None  # why the node is out of service
        self._left: list[tuple[UUID, Sequence[UUID]]] = []  # lost registrations and what they held

    def drain(self) -> None:
        """Take no more work, finish what runs, and stop."""
        self._begin_drain("its process was told to stop")

    def _begin_drain(self, reason: str | None, seconds: float | None = None, *, interrupted: bool = False) -> None:
        VITALS.waits_for = "the worker drains: it takes no more tasks"
        limit = self._settings.drain_seconds if seconds is None else seconds
        self._drain.begin(reason, limit, interrupted=interrupted)

    async def run(self) -> None:
        """Work until drained.

        Raises UnknownPool, ScratchUnusable, IsolationUnusable, NodeUnfit and InstanceNotEnded.
        """
        VITALS.waits_for = "the worker has not registered yet"
        async with AsyncExitStack() as stack:
            stack.callback(VITALS.forget_all)
            directory = await stack.enter_async_context(_scratch(Path(self._settings.scratch)))
            aws = await stack.enter_async_context(connect_aws(self._settings, _AWS_TRIES))
            imds = find_imds()
            describing = asyncio.create_task(describe_machine(imds))
            stack.callback(describing.cancel)
            if imds is not None:
                stack.callback(asyncio.create_task(watch(imds, self._interrupt)).cancel)
            stack.callback(asyncio.create_task(self._keep_group_waiting(aws)).cancel)
            try:
                credentials = await stack.enter_async_context(task_credentials(self._settings))
                variables = await credentials.variables(LOOPBACK)
                cells = await strongest_cells(self._settings, directory)
                finding = find_containers(self._settings, aws.s3, cells, credentials)
                containers = await stack.enter_async_context(finding)
                equipment = equip(self._settings, aws.s3, cells, containers, variables)
            except (EngineUnusable, RoleRefused) as error:
                raise NodeUnfit(str(error)) from error
            except OSError as error:  # its directories may go at any moment
                raise NodeUnfit(f"the node can't run tasks: {error}") from error
            self._isolation = cells.isolation
            self._engine = equipment.containers.engine.name if equipment.containers else None
            stack.push_async_callback(equipment.inputs.close)
            stack.push_async_callback(equipment.packages.close)
            if (fault := await equipment.health.find_fault(0.0)) is not None:
                raise NodeUnfit(f"the node can't run tasks: {fault}")
            await self._reach_s3_unless_draining(aws.s3)
            found = await describing
            self._instance = replace(found, instance_id=self._settings.instance_id or found.instance_id)
            while not self._drain.begun.is_set():
                await self._run_registered(aws, equipment)
            await self._end_instance(aws)
            if self._quarantine is not None:  # the scheduler ends the instance, unless it has one that can't
                raise NodeUnfit(f"the node is out of service: {self._quarantine}")

    async def _reach_s3_unless_draining(self, s3: Any) -> None:
        """Wait until this node reaches S3: until then it would only take tasks from others."""
        outage = Outage("S3")
        while not self._drain.begun.is_set():
            if (error := await find_outage(s3, self._settings.bucket, ASK_SECONDS)) is None:
                outage.passed()
                return
            await outage.failed(error)

    async def _run_registered(self, aws: Aws, equipment: Equipment) -> None:
        """Work from one registration until drained or until the lease is lost."""
        settings = self._settings
        if not self._drain.begun.is_set():
            VITALS.waits_for = "the worker has not registered yet"
        database = await connect_database(
            settings, settings.database_connections_max, seconds=settings.database_seconds
        )
        try:
            worker_id = new_id()
            queues = await self._register_unless_draining(database, worker_id, equipment.hardware.capacity)
            if queues is None:
                await _stop(database, worker_id)  # the registration may have succeeded even so
            else:
                await self._work(database, aws, equipment, worker_id, queues)
        finally:
            with suppress(Exception):
                await in_time(database.close(), _STOP_SECONDS)
            database.terminate()

    async def _register_unless_draining(
        self, database: Database, worker_id: UUID, capacity: Capacity
    ) -> PoolQueues | None:
        registering = asyncio.create_task(self._register(database, worker_id, capacity))
        draining = asyncio.create_task(self._drain.begun.wait())
        try:
            await asyncio.wait({registering, draining}, return_when=asyncio.FIRST_COMPLETED)
            return registering.result() if registering.done() else None
        finally:
            registering.cancel()
            draining.cancel()
            await asyncio.wait({registering, draining})

    async def _register(self, database: Database, worker_id: UUID, capacity: Capacity) -> PoolQueues:
        """Register; try until the database, which may be down or not migrated yet, accepts. Raises UnknownPool."""
        outage, schema = Outage("database"), Outage("schema")
        while not is_cancelled():
            try:
                queues = await in_time(self._try_to_register(database, worker_id, capacity), _REGISTER_SECONDS)
            except UnknownPool:
                raise
            except UnknownSchema as error:
                await schema.failed(error)
            except Exception as error:
                await outage.failed(error)
            else:
                outage.passed()
                schema.passed()
                return queues
        raise asyncio.CancelledError

    async def _try_to_register(self, database: Database, worker_id: UUID, capacity: Capacity) -> PoolQueues:
        await check_schema(database)
        if self._settings.database_pooler:
            await check_pooled_sessions(database)
        for lost_id, bundle_ids in self._left:  # so that their tasks need not wait for the reaper
            await transitions.abandon(database, lost_id, bundle_ids)
            await workers.stop_worker(database, lost_id)
        self._left.clear()
        await workers.register_worker(
            database,
            worker_id=worker_id,
            pool=self._settings.pool,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            slots=self._settings.slots,
            isolation=self._isolation,
            **asdict(self._instance),
            capacity=capacity,
            engine=self._engine,
        )
        queues = await pools.load_pool(database, self._settings.pool)
        if queues is None:
            raise UnknownPool(f"the pool {self._settings.pool!r} has just been deleted")
        return queues

    async def _work(
        self, database: Database, aws: Aws, equipment: Equipment, worker_id: UUID, queues: PoolQueues
    ) -> None:
        settings = self._settings
        structlog.contextvars.bind_contextvars(worker=str(worker_id))
        bundles = Bundles()
        completer = Completer(database, worker_id, bundles)
        slots = Slots(
            settings.slots,
            settings.bundle_seconds,
            equipment,
            bundles,
            completer,
            Quarantine(settings.node_faults_max, self._begin_quarantine),
        )
        heartbeat = Heartbeat(
            database=database,
            worker_id=worker_id,
            heartbeat_seconds=settings.heartbeat_seconds,
            lease_seconds=settings.lease_seconds,
            cut_off_seconds=settings.cut_off_seconds,
            bundles=bundles,
            slots=slots,
            drain=self._drain_by_order,
        )
        receiver = Receiver(
            database=database,
            database_outage=heartbeat.outage,
            sqs=aws.sqs,
            queues=queues,
            worker_id=worker_id,
            wait_seconds=settings.receive_wait_seconds,
            bundles=bundles,
            slots=slots,
            completer=completer,
            lacks=equipment.lacks,
        )
        if not self._drain.begun.is_set():
            VITALS.waits_for = None
        log.info(
            "registered",
            pool=settings.pool,
            slots=settings.slots,
            has=str(equipment.hardware.capacity),
            isolation=self._isolation,
            engine=self._engine,
        )
        try:
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(receiver.run())
                group.create_task(slots.run())
                group.create_task(completer.run())
                group.create_task(heartbeat.run())
                group.create_task(self._drain_when_told(database, worker_id, receiver, receiving, slots, completer))
        except* LeaseLost as lost:
            LEASES_LOST.inc()
            log.error("lease lost, everything that ran is killed", reason=str(lost.exceptions[0]))
            self._left.append((worker_id, list(bundles.ids)))
        except* _Drained:
            await _stop(database, worker_id)
        finally:
            VITALS.forget("database")  # it has a period

    def _begin_quarantine(self, reason: str) -> None:
        log.error("node out of service", reason=reason)
        self._quarantine = reason
        self._begin_drain(None)  # the quarantine says why

    def _drain_by_order(self, replace_instance: bool) -> None:
        if not self._drain.begun.is_set():  # otherwise the database only repeats what we have told it
            self._ending = "is replaced" if replace_instance else "leaves"
            self._begin_drain(None)

    def _interrupt(self, announced: Interruption) -> None:
        """Drain. What runs may end by itself where EC2 leaves time for that."""
        left = math.inf
        if announced.ends_at is not None:
            left = (announced.ends_at - datetime.now(UTC)).total_seconds() - _RESERVE_SECONDS
        certain = announced.kind in ("spot_interruption", "group_ends_it")
        if certain:
            left = min(left, self._settings.drain_seconds)
        if announced.kind == "group_ends_it":
            self._ending = "is being ended"
            self._group_ends_it.set()
        elif not self._drain.begun.is_set():
            self._ending = "is replaced"
        self._begin_drain(announced.reason, left, interrupted=certain)

    async def _keep_group_waiting(self, aws: Aws) -> None:
        """While the node drains because its group ends the instance, if the group has a hook for that."""
        await self._group_ends_it.wait()
        while self._settings.lifecycle_hook is not None:
            if (hook := self._hook(aws, await self._find_group())) is not None:
                await hook.hold()
            await asyncio.sleep(_STOP_SECONDS)

    def _hook(self, aws: Aws, group: str | None) -> LifecycleHook | None:
        """The group's hook for this instance, if it has one."""
        name, instance_id = self._settings.lifecycle_hook, self._instance.instance_id
        if name is None or instance_id is None or not group:
            return None
        return LifecycleHook(aws.autoscaling, hook=name, group=group, instance_id=instance_id)

    async def _find_group(self) -> str | None:
        """The pool's group; None if it has none, and the empty string if the database does not say so now."""
        try:
            return await in_time(self._load_group(), _STOP_SECONDS)
        except Exception as error:
            log.error("group not found", pool=self._settings.pool, error=repr(error))
            return ""

    async def _load_group(self) -> str | None:
        settings = self._settings
        database = await connect_database(settings, 1, seconds=settings.database_seconds)
        try:
            return await pools.load_group(database, settings.pool)
        finally:
            database.terminate()

    async def _end_instance(self, aws: Aws) -> None:
        """Raises InstanceNotEnded."""
        instance_id = self._instance.instance_id
        if self._ending == "stays" or instance_id is None:
            return
        group = await self._find_group()
        if group is None and self._settings.instance_id is None:  # a machine of somebody's own, who ends it or does not
            return
        if self._ending != "is being ended":
            replaced, power_off = self._ending == "is replaced", self._settings.power_off
            try:
                await end_instance(aws.autoscaling, instance_id, replace=replaced, power_off=power_off)
            except InstanceNotEnded:
                if not self._drain.interrupted:  # else EC2 does it
                    raise
        if (hook := self._hook(aws, group)) is not None:
            await hook.complete()

    async def _drain_when_told(
        self,
        database: Database,
        worker_id: UUID,
        receiver: Receiver,
        receiving: asyncio.Task[None],
        slots: Slots,
        completer: Completer,
    ) -> None:
        await self._drain.begun.wait()
        log.info("draining", running=slots.busy, reason=self._drain.reason, instance=self._ending)
        receiver.stop()
        await asyncio.wait({receiving})
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        announced = asyncio.Event()
        announcing = asyncio.create_task(self._announce_drain(database, worker_id, announced))
        try:
            await asyncio.gather(slots.end(self._drain), announced.wait())
            ends_at = min(self._drain.ends_at, began_at + self._settings.drain_seconds)
            async with asyncio.timeout_at(max(ends_at, loop.time() + _REPORT_SECONDS_MIN)):
                await completer.flushed()
        except TimeoutError:
            _tell_unreported(completer.unreported)
        finally:
            announcing.cancel()
        raise _Drained

    async def _announce_drain(self, database: Database, worker_id: UUID, announced: asyncio.Event) -> None:
        """Tell the others, until cancelled, why not to count on this worker's slots. Sets `announced` after a try."""
        while True:
            self._drain.changed.clear()
            try:
                await in_time(self._announce_drain_once(database, worker_id), _STOP_SECONDS)
            except Exception as error:
                log.info("drain not announced", error=repr(error))
                announced.set()
                await asyncio.sleep(_STOP_SECONDS)
            else:
                announced.set()
                await self._drain.changed.wait()

    async def _announce_drain_once(self, database: Database, worker_id: UUID) -> None:
        async with database.acquire() as connection:
            if self._quarantine is not None:
                await workers.quarantine_worker(connection, worker_id, self._quarantine)
            await workers.drain_worker(
                connection,
                worker_id,
                self._drain.reason,
                interrupted=self._drain.interrupted,
                replace_instance=self._ending in ("is replaced", "is being ended"),
            )


@asynccontextmanager
async def _scratch(root: Path) -> AsyncIterator[Path]:
    """A `scratch_directory`, made and removed beside the loop: what dead workers left may be large."""
    scratch = scratch_directory(root)
    directory = await in_own_thread(scratch.__enter__)
    try:
        yield directory
    finally:
        await in_own_thread(scratch.__exit__, None, None, None)


def _seal_key(settings: WorkerSettings, cache: Path) -> bytes:
    """What all workers of the node know, and no task: the database's URL with its password, or a file of their own."""
    secret = settings.database_url.encode()
    if settings.database_password_from is not None:
        secret = _own_file(cache / "seal.key")
    return hashlib.sha256(secret).digest()


def _own_file(path: Path) -> bytes:
    """Random bytes that only this user can read, made once. Raises ScratchUnusable."""
    try:
        with suppress(FileExistsError), NamedTemporaryFile(dir=path.parent) as draft:  # its mode is 0600
            draft.write(secrets.token_bytes(32))
            draft.flush()
            path.hardlink_to(draft.name)
        return path.read_bytes()
    except OSError as error:
        raise ScratchUnusable(f"can't use the directory in PIECEWORK_CACHE: {error}") from None


def equip(
    settings: WorkerSettings,
    s3: Any,
    cells: Cells,
    containers: Containers | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Equipment:
    """`variables` are what all tasks get besides, unless they run in containers. Raises ScratchUnusable."""
    layout, environment = settings.layout, {**base_environment(settings), **variables}
    cache = cache_directory(Path(settings.cache))
    hardware = Hardware.of_node(settings, cells.directory)
    return Equipment(
        s3,
        layout,
        InputReach(settings),
        cells.directory,
        cells,
        Packages(s3, layout, cache, settings.packages_max, environment, cells, seal_key=_seal_key(settings, cache)),
        DeclaredInputs(s3, layout, cells.directory / "inputs", settings.inputs_bytes_max),
        Secrets(settings),
        settings.log_bytes_max,
        Share.of_node(settings.slots, hardware.capacity),
        NodeHealth(cells.directory, cache, settings.disk_bytes_min),
        settings.losses_max,
        hardware,
        containers,
    )


def _tell_unreported(attempts: Sequence[AttemptReport]) -> None:
    """Name what is lost: these tasks run again, once this worker counts as lost."""
    named = [f"{a.job_id}/{a.stage}/{a.index} attempt {a.attempt} {a.outcome}" for a in attempts[:_NAMED_MAX]]
    log.error("stopped while the database was away: attempts not reported", count=len(attempts), attempts=named)


async def _stop(database: Database, worker_id: UUID) -> None:
    """Sign off; if that fails, the lease expires."""
    try:
        await in_time(workers.stop_worker(database, worker_id), _STOP_SECONDS)
    except Exception as error:
        log.warning("not marked as stopped", error=repr(error))
    else:
        log.info("stopped")
