"""How messages of alerts write times."""

from datetime import UTC, datetime

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def span(seconds: float) -> str:
    """A duration in its two largest units: `6 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    rest = round(seconds / 60) * 60
    parts = []
    for unit, size in _UNITS:
        if count := rest // size:
            parts.append(f"{count} {unit}")
        rest %= size
    return " ".join(parts[:2])


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
