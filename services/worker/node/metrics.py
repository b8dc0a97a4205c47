"""What a worker measures of its own work."""

import collections
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from services.engine.attempt import AttemptReport

LEASES_LOST = Counter("piecework_worker_leases_lost", "Times that the worker lost its lease, and what it ran")
SLOTS = Gauge("piecework_worker_slots", "Slots, by what they do", ["state"])
REPORTS_WAITING = Gauge("piecework_worker_reports_waiting", "Ended attempts that the database does not know of yet")
_ATTEMPTS = Counter(
    "piecework_worker_attempts",
    "Attempts that ended here, by outcome and what ended them: the type of their error, or withdrawn",
    ["outcome", "cause"],
)


def count_attempts(reports: Iterable[AttemptReport]) -> None:
    """Count attempts that have ended."""
    for labels, count in collections.Counter((report.outcome, _cause(report)) for report in reports).items():
        _ATTEMPTS.labels(*labels).inc(count)


def _cause(report: AttemptReport) -> str:
    if report.error is not None:
        return str(report.error.get("type", "unknown"))
    return "withdrawn" if report.outcome == "released" else ""
