"""Rules of alerts: their conditions, their quiet hours, and the secrets of where they are told."""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

from cryptography.fernet import Fernet, InvalidToken
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.contract.fields import DURATION
from services.engine.webhooks import NoSecret
from services.platform.cron import check_zone

Channel = Literal["webhook", "slack", "teams", "email", "sns"]
SubjectKind = Literal["job", "schedule", "trigger", "pool"]
AlertEvent = Literal["alert.raised", "alert.over", "alert.summary", "alert.test"]

Condition = Literal[
    "failed", "late", "not_started", "ran_over", "slowed", "rejects", "records", "no_workers", "trigger_failed"
]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
LASTING: tuple[Condition, ...] = ("late", "not_started", "ran_over", "no_workers", "trigger_failed")  # until it is over

_YEAR_SECONDS = 366 * 86_400.0
_SALT = b"piecework alerts"

# A minute at least: what is looked at every few seconds says nothing about less.
Limit = Annotated[float, Field(ge=60, le=_YEAR_SECONDS), DURATION]


class Conditions(BaseModel):
    """What an alert tells of. Those that are false or null are not told."""

    model_config = ConfigDict(extra="forbid")

    failed: bool = Field(False, description="a job fails")
    late: Limit | None = Field(
        None, description="a job has not ended this long after it was due: its schedule's time, or its submission"
    )
    not_started: Limit | None = Field(
        None, description="none of a job's tasks has started this long after it was due, or its schedule submitted none"
    )
    ran_over: Limit | None = Field(None, description="a job has not ended this long after it started")
    slowed: Annotated[float, Field(gt=1, le=1000)] | None = Field(
        None, description="a job took this many times the usual: the median of the last 20 of its schedule, or its name"
    )
    rejects: Annotated[int, Field(ge=0)] | None = Field(None, description="a job has more rejected records")
    records: bool = Field(False, description="a stage's records do not add up: in + added ≠ out + rejected + filtered")
    no_workers: Limit | None = Field(None, description="tasks have waited this long in a pool that has no worker")
    trigger_failed: bool = Field(
        False, description="a trigger's queue can't be read, its message makes no job, or a schedule's run makes none"
    )

    @property
    def names(self) -> list[Condition]:
        """Those that are told of."""
        return [name for name in CONDITIONS if getattr(self, name) not in (None, False)]

    def stored(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.names}

    @classmethod
    def read(cls, stored: dict[str, Any]) -> "Conditions":
        """Those of a stored rule; what only a newer release knows is left out."""
        return cls.model_validate({name: value for name, value in stored.items() if name in CONDITIONS})


def _check_time(text: str) -> str:
    try:
        time.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a time of day; write hours and minutes, such as 22:00") from error
    return text


TimeOfDay = Annotated[str, Field(pattern=r"^\d\d:\d\d$", max_length=5), AfterValidator(_check_time)]


class QuietHours(BaseModel):
    """The hours of each day in which an alert holds what it has to tell, and tells all of it when they end."""

    model_config = ConfigDict(extra="forbid")

    begin: TimeOfDay = Field(examples=["22:00"])
    end: TimeOfDay = Field(examples=["07:00"])
    time_zone: Annotated[str, Field(max_length=100), AfterValidator(check_zone)] = Field(
        "UTC", examples=["Europe/Berlin"]
    )

    def until(self, now: datetime) -> datetime | None:
        """When the quiet hours end in which `now` is; None: it is in none."""
        local = now.astimezone(ZoneInfo(self.time_zone))
        for begin, end in self._near(local):
            if begin <= now < end:
                return end
        return None

    def _near(self, local: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Those that begin on the day before, and on the day."""
        begin, end = time.fromisoformat(self.begin), time.fromisoformat(self.end)
        for days in (-1, 0):
            day = local.date() + timedelta(days=days)
            next_day = day + timedelta(days=int(end <= begin))
            yield (
                datetime.combine(day, begin, local.tzinfo).astimezone(UTC),
                datetime.combine(next_day, end, local.tzinfo).astimezone(UTC),
            )


def _sealer(key: str) -> Fernet:
    """Encrypts with a key of its own, derived from PIECEWORK_SECRET_KEY by HKDF with SHA-256 (RFC 5869)."""
    extracted = hmac.digest(_SALT, key.encode(), "sha256")
    return Fernet(urlsafe_b64encode(hmac.digest(extracted, b"addresses\x01", "sha256")))


def seal(address: str, key: str) -> str:
    """An address that is a secret, as it is stored."""
    return _sealer(key).encrypt(address.encode()).decode()


def unseal(sealed: str, key: str | None) -> str:
    """Raises NoSecret."""
    if key is None:
        raise NoSecret("PIECEWORK_SECRET_KEY is not set for this scheduler: set it to what the API has")
    try:
        return _sealer(key).decrypt(sealed.encode()).decode()
    except InvalidToken:
        why = "PIECEWORK_SECRET_KEY is not what sealed this address: set it as it was, or set the address again"
        raise NoSecret(why) from None
