"""Sizes and durations as people write them. The client has a copy of this module; a test holds the two together."""

import re
from decimal import Decimal

_BYTES = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _BYTES |= {_letter: 1024**_power, f"{_letter}IB": 1024**_power, f"{_letter}B": 1000**_power}
_SECONDS = {
    "ms": Decimal("0.001"),
    "": Decimal(1),
    **dict.fromkeys(("s", "sec"), Decimal(1)),
    **dict.fromkeys(("m", "min"), Decimal(60)),
    "h": Decimal(3600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}

SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*([KkMmGgTt]([Ii]?[Bb])?|[Bb])?\s*$"
DURATION_PATTERN = r"^\s*(\d+(\.\d+)?\s*(ms|s|sec|m|min|h|d|w)?\s*)+$"


def parse_size(text: str) -> int:
    """Bytes of `8388608`, `8MiB`, `8M` (both 1024 based), `1.5GB` (1000 based). Raises ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", text.strip())
    if not found or found[2].upper() not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write for example 8MiB, 500KB or 1048576")
    return int(Decimal(found[1]) * _BYTES[found[2].upper()])


def parse_duration(text: str) -> int | float:
    """Seconds of `90`, `1.5h`, `30s`, `7d`, `1h30m`, `500ms`. Raises ValueError."""
    found = re.findall(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text)
    units = [unit for _, unit in found]
    whole = "".join(re.split(r"\s+", text)) == "".join(number + unit for number, unit in found)
    if not found or not whole or not set(units) <= _SECONDS.keys() or ("" in units and len(units) > 1):
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 15m, 2h, 1h30m, 7d or 90 (seconds)")
    seconds = sum((Decimal(number) * _SECONDS[unit] for number, unit in found), Decimal(0))
    return int(seconds) if seconds == int(seconds) else float(seconds)
