"""Python's times with up to 999 nanoseconds more, which its own types can't hold.

They are subclasses of datetime, time and timedelta. As text, and compared with each other, they are exact to the
nanosecond; arithmetic gives Python's own precision, which is a microsecond.
"""

from __future__ import annotations

import datetime
from typing import Any, Self, SupportsIndex, cast


class _Exact:
    """The attribute `nanosecond` (0 to 999) beside the base's `microsecond`, as text and in comparisons."""

    nanosecond: int = 0

    def __eq__(self, other: object) -> bool:
        equal = super().__eq__(other)
        return self.nanosecond == _nanosecond(other) if equal is True else equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.nanosecond)) if self.nanosecond else super().__hash__()

    def __lt__(self, other: Any) -> bool:
        return self._orders(super().__lt__(other), other, self.nanosecond < _nanosecond(other))  # type: ignore[misc]

    def __le__(self, other: Any) -> bool:
        return self._orders(super().__lt__(other), other, self.nanosecond <= _nanosecond(other))  # type: ignore[misc]

    def __gt__(self, other: Any) -> bool:
        return self._orders(super().__gt__(other), other, self.nanosecond > _nanosecond(other))  # type: ignore[misc]

    def __ge__(self, other: Any) -> bool:
        return self._orders(super().__gt__(other), other, self.nanosecond >= _nanosecond(other))  # type: ignore[misc]

    def _orders(self, strictly: bool, other: Any, by_nanosecond: bool) -> bool:
        """NotImplemented stays what it is."""
        return by_nanosecond if strictly is False and super().__eq__(other) is True else strictly


class Datetime(_Exact, datetime.datetime):
    """A datetime with the attribute `nanosecond`."""

    @classmethod
    def of(cls, base: datetime.datetime, nanosecond: int) -> Self:
        date, time = (base.year, base.month, base.day), (base.hour, base.minute, base.second, base.microsecond)
        made = cls(*date, *time, base.tzinfo, fold=base.fold)
        made.nanosecond = nanosecond
        return made

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        if timespec != "auto" or not self.nanosecond:
            return super().isoformat(sep, timespec)
        return _with_digits(super().isoformat(sep, "microseconds"), self.nanosecond)

    def astimezone(self, tz: datetime.tzinfo | None = None) -> Self:
        return self.of(super().astimezone(tz), self.nanosecond)

    def replace(self, *values: Any, nanosecond: int | None = None, **named: Any) -> Self:
        return self.of(super().replace(*values, **named), self.nanosecond if nanosecond is None else nanosecond)

    def time(self) -> Time:
        return Time.of(super().time(), self.nanosecond)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return type(self).of, (datetime.datetime.combine(self.date(), super().timetz()), self.nanosecond)


class Time(_Exact, datetime.time):
    """A time with the attribute `nanosecond`."""

    @classmethod
    def of(cls, base: datetime.time, nanosecond: int) -> Self:
        made = cls(base.hour, base.minute, base.second, base.microsecond, base.tzinfo, fold=base.fold)
        made.nanosecond = nanosecond
        return made

    def isoformat(self, timespec: str = "auto") -> str:
        if timespec != "auto" or not self.nanosecond:
            return super().isoformat(timespec)
        return _with_digits(super().isoformat("microseconds"), self.nanosecond)

    def replace(self, *values: Any, nanosecond: int | None = None, **named: Any) -> Self:
        return self.of(super().replace(*values, **named), self.nanosecond if nanosecond is None else nanosecond)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        base = datetime.time(self.hour, self.minute, self.second, self.microsecond, self.tzinfo, fold=self.fold)
        return type(self).of, (base, self.nanosecond)


class Timedelta(_Exact, datetime.timedelta):
    """A timedelta with the attribute `nanosecond`."""

    @classmethod
    def of(cls, base: datetime.timedelta, nanosecond: int) -> Self:
        made = cls(base.days, base.seconds, base.microseconds)
        made.nanosecond = nanosecond
        return made

    def __str__(self) -> str:
        if not self.nanosecond:
            return super().__str__()
        return f"{super().__str__() if self.microseconds else super().__str__() + '.000000'}{self.nanosecond:03}"

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return type(self).of, (datetime.timedelta(self.days, self.seconds, self.microseconds), self.nanosecond)


def nanoseconds(value: datetime.timedelta) -> int:
    """The whole duration."""
    seconds = value.days * 86_400 + value.seconds
    return (seconds * 1_000_000 + value.microseconds) * 1000 + _nanosecond(value)


def duration_text(value: datetime.timedelta) -> str:
    """The duration in seconds, as ISO 8601 writes it: `PT93784.5S`, `-PT0.000000001S`."""
    whole = nanoseconds(value)
    seconds, rest = divmod(abs(whole), 10**9)
    digits = f".{rest:09}".rstrip("0") if rest else ""
    return f"{'-' if whole < 0 else ''}PT{seconds}{digits}S"


def _nanosecond(value: object) -> int:
    return cast(int, getattr(value, "nanosecond", 0))


def _with_digits(text: str, nanosecond: int) -> str:
    """Three more digits after those of the microseconds, before the offset from UTC."""
    end = text.index(".") + 7
    return f"{text[:end]}{nanosecond:03}{text[end:]}"
