"""How people name what has an id: by the id, the beginning of it, a name, or `@last`, wherever a command asks for it.

A parameter that is annotated with a Noun takes any of these; the command's function gets the id. `@last` is the newest,
`@-2` the one before it, `@last-failed` the newest in that state; after a name (`nightly@last`) only what has the name
counts. Of jobs, `@last` without a name means one's own.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, cast
from uuid import UUID

import typer

from piecework.errors import InputError, NotFound, PieceworkError

if TYPE_CHECKING:
    from piecework.client import Client
    from piecework.shapes import JobState

LOOKED_THROUGH = 10_000  # of what the API can't look up, no more than these, the newest, are read
CANDIDATES_SHOWN = 5
COMPLETIONS = 50

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_PREFIX = re.compile(r"[0-9a-f-]{4,36}", re.IGNORECASE)
_RECENT = re.compile(r"(?P<name>.*)@(last(-(?P<state>[a-z]+))?|-(?P<back>[1-9][0-9]*))")

Item = Mapping[str, Any]


@dataclass(frozen=True)
class Filters:
    """What is looked for; what is None or empty does not matter."""

    name: str | None = None
    state: str | None = None
    id_prefix: str = ""
    mine: bool = False

    def fit(self, item: Item, noun: "Noun") -> bool:
        named = self.name is None or self.name in (item.get(field) for field in noun.names)
        there = self.state is None or item.get("state") == self.state
        return named and there and item[noun.key].replace("-", "").startswith(self.id_prefix.replace("-", "").lower())


@dataclass(frozen=True)
class Noun:
    """A kind of thing. `items` are the newest ones, of a client, with as many of the filters as its API knows.

    `names` are the fields that people know it by; shells offer the name, not the id, where it is `unique`.
    """

    name: str
    items: "Callable[[Client, int, Filters], Iterable[Any]]"
    names: tuple[str, ...] = ("name",)
    unique: bool = False

    @property
    def key(self) -> str:
        return f"{self.name}_id"

    def argument(self, **settings: Any) -> Any:
        """The argument that takes one; its help says how it may be named."""
        settings.setdefault("metavar", self.name.upper())
        settings.setdefault("help", f"{self.name.capitalize()}: its id or the beginning, its name, or @last.")
        return typer.Argument(parser=str, autocompletion=self._complete, **settings)

    def option(self, *names: str, **settings: Any) -> Any:
        """The option that takes one."""
        settings.setdefault("metavar", self.name.upper())
        return typer.Option(*names, parser=str, autocompletion=self._complete, **settings)

    def resolve(self, client: "Client", text: str) -> UUID:
        """The id of what is meant. Raises InputError if that may be several, NotFound if there is nothing."""
        if _ID.fullmatch(text):
            return UUID(text)
        if recent := _RECENT.fullmatch(text):
            return self._recent(client, text, **recent.groupdict())
        found = self._find(client, Filters(id_prefix=text)) if _PREFIX.fullmatch(text) else []
        found = found or self._find(client, Filters(name=text))
        if not found:
            raise NotFound(404, f"there is no {self.name} {text!r}: no id begins so, and none has this name")
        if len(found) > 1:
            candidates = "; ".join(map(self._describe, found[:CANDIDATES_SHOWN]))
            more = "; …" if len(found) > CANDIDATES_SHOWN else ""
            named = text in (found[0].get(field) for field in self.names)
            newest = f", or {text}@last for the newest" if named else ""
            raise InputError(f"{text!r} is ambiguous: {self.name}s {candidates}{more}; write more of the id{newest}")
        return UUID(found[0][self.key])

    def _recent(self, client: "Client", text: str, name: str, state: str | None, back: str | None) -> UUID:
        wanted = int(back or 1)
        found = self._find(client, Filters(name=name or None, state=state, mine=not name), wanted)
        if len(found) < wanted:
            raise NotFound(404, f"there is no {self.name} {text}")
        return UUID(found[-1][self.key])

    def _find(self, client: "Client", filters: Filters, limit: int = CANDIDATES_SHOWN + 1) -> list[Item]:
        """The newest that fit; an API that is older does not look at each of the filters."""
        fitting = (item for item in self.items(client, limit, filters) if filters.fit(item, self))
        return list(islice(fitting, limit))

    def _describe(self, item: Item) -> str:
        facts = (item.get(field) for field in (*self.names, "state", "created_at"))
        return f"{item[self.key]} ({', '.join(str(fact) for fact in facts if fact)})"

    def _complete(self, context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
        """The newest ids that begin so, with their names and states; none if the grid does not answer at once."""
        from piecework.cli.session import quick_client

        try:
            with quick_client(context) as client:
                yield from self._offered(client, incomplete)
        except PieceworkError:
            return

    def _offered(self, client: "Client", incomplete: str) -> Iterator[tuple[str, str]]:
        if self.unique:
            named = (item for item in self.items(client, COMPLETIONS, Filters()) if item["name"].startswith(incomplete))
            yield from ((item["name"], item[self.key]) for item in islice(named, COMPLETIONS))
        prefix = incomplete if _PREFIX.fullmatch(incomplete) else ""
        if prefix or not self.unique:
            for item in self._find(client, Filters(id_prefix=prefix), COMPLETIONS):
                facts = (item.get(field) for field in (*self.names, "state"))
                yield item[self.key], ", ".join(str(fact) for fact in facts if fact)


class JobAndMore(Noun):
    """A job, and after a colon what is said of it; the job is resolved, the rest stays."""

    def resolve(self, client: "Client", text: str) -> Any:
        job, colon, more = text.partition(":")
        return f"{super().resolve(client, job)}{colon}{more}"


class UniqueName(Noun):
    """What the API takes by its name, which nothing else has: a name stays as it is."""

    def resolve(self, client: "Client", text: str) -> Any:
        looked_up = _PREFIX.fullmatch(text) or _RECENT.fullmatch(text)
        if not looked_up or _ID.fullmatch(text):
            return text
        try:
            return str(super().resolve(client, text))
        except NotFound:
            if _RECENT.fullmatch(text):
                raise
            return text


class PartOf:
    """What is known only within another thing: the one that the command's parameter `of` names."""

    of: ClassVar[str]

    def resolve(self, client: "Client", text: str, whole: Any) -> Any:
        raise NotImplementedError


class BackfillOfSchedule(PartOf):
    """A backfill of a schedule: by its id, the beginning of it, or `@last`."""

    of = "schedule"

    def argument(self) -> Any:
        help = "Backfill: its id or the beginning, or @last."
        return typer.Argument(metavar="BACKFILL", parser=str, autocompletion=self._complete, help=help)

    def resolve(self, client: "Client", text: str, whole: str) -> UUID:
        """The backfill's id. Raises InputError and NotFound as a Noun does."""
        return _backfills_of(whole).resolve(client, text)

    def _complete(self, context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
        schedule = context.params.get("schedule")
        return _backfills_of(schedule)._complete(context, incomplete) if schedule else iter(())


def _backfills_of(schedule: str) -> Noun:
    return Noun("backfill", _newest(lambda client: client.list_backfills(schedule)), ())


class StageOfJob(PartOf):
    """A stage of a job: by its number or its name."""

    of = "job_id"

    def argument(self, **settings: Any) -> Any:
        settings.setdefault("help", "Stage: its number, from 0, or its name.")
        return typer.Argument(metavar="STAGE", parser=str, autocompletion=self._complete, **settings)

    def option(self, *names: str, **settings: Any) -> Any:
        return typer.Option(*names, metavar="STAGE", parser=str, autocompletion=self._complete, **settings)

    def resolve(self, client: "Client", text: str, whole: UUID) -> int:
        """The stage's number. Raises NotFound."""
        if text.isdecimal():
            return int(text)
        stages = client.get_job(whole)["stages"]
        for stage in stages:
            if stage["name"] == text:
                return stage["stage"]
        there_are = ", ".join(f"{stage['stage']} {stage['name']}" for stage in stages)
        raise NotFound(404, f"job {whole} has no stage {text!r}; it has {there_are}")

    def _complete(self, context: typer.Context, incomplete: str) -> list[str]:
        from piecework.cli.session import quick_client

        # An option that still lacks its value leaves the arguments before it unparsed.
        job = next((text for text in (context.params.get("job_id"), *context.args) if text), "@last")
        try:
            with quick_client(context) as client:
                stages = client.get_job(JOB.resolve(client, job))["stages"]
                return [stage["name"] for stage in stages if stage["name"].startswith(incomplete)]
        except PieceworkError:
            return []


STAGE = StageOfJob()


def _jobs(client: "Client", limit: int, filters: Filters) -> Iterable[Any]:
    return client.list_jobs(
        name=filters.name,
        state=cast("JobState | None", filters.state),  # the API checks it
        id_prefix=filters.id_prefix or None,
        mine=filters.mine,
    ).page(min(limit, 500))["items"]


def _workers(client: "Client", limit: int, filters: Filters) -> Iterable[Any]:
    """Those that have gone only if they are asked for: hosts outlive them."""
    gone_too = filters.state or filters.id_prefix
    return islice(client.list_workers(state=None if gone_too else ["active", "draining"]), LOOKED_THROUGH)


def _newest(list_all: "Callable[[Client], Iterable[Any]]") -> "Callable[[Client, int, Filters], Iterable[Any]]":
    return lambda client, limit, filters: islice(list_all(client), LOOKED_THROUGH)


JOB = Noun("job", _jobs)
JOB_AND_MORE = JobAndMore("job", _jobs)
SCHEDULE = Noun("schedule", _newest(lambda client: client.list_schedules()), unique=True)
SCHEDULE_NAME = UniqueName("schedule", SCHEDULE.items, unique=True)
ALERT_NAME = UniqueName("alert", _newest(lambda client: client.list_alerts()), unique=True)
BACKFILL = BackfillOfSchedule()
TRIGGER = Noun("trigger", _newest(lambda client: client.list_triggers()))
UPLOAD = Noun("upload", _newest(lambda client: client.list_uploads()), ("uri",))
WORKER = Noun("worker", _workers, ("hostname", "instance_id"))
ENDPOINT = Noun("endpoint", _newest(lambda client: client.list_webhook_endpoints()), ("url",))
DELIVERY = Noun("delivery", _newest(lambda client: client.list_webhook_deliveries()), ())
KEY = Noun("key", _newest(lambda client: (key for key in client.list_api_keys() if not key["revoked_at"])))
