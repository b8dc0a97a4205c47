"""The storm as a table, in plain text."""

from collections import Counter, defaultdict
from itertools import pairwise

from tests.invariants import Stage
from tests.storm.evidence import Evidence
from tests.storm.faults import DECK
from tests.storm.plan import LOSSES_MAX
from tests.storm.run import Outcome

_CUT_OFF = ("lost", "released", "cancelled")
_WIDTH = 64
_WRONG_SHOWN = 10  # of each check


def render(outcome: Outcome) -> str:
    """The whole report."""
    parts = (_head, _faults, _attempts, _recovery, _truth)
    return "\n\n".join("\n".join(part(outcome)) for part in parts)


def _title(left: str, *right: str) -> list[str]:
    columns = "".join(f"{text:>12}" for text in right)
    return [f"{left:<{_WIDTH - len(columns)}}{columns}", "─" * _WIDTH]


def _row(left: str, *right: object) -> str:
    columns = "".join(f"{text if isinstance(text, str) else format(text, ','):>12}" for text in right)
    return f"{left:<{_WIDTH - len(columns)}}{columns}"


def _head(outcome: Outcome) -> list[str]:
    plan, states = outcome.plan, Counter(task["state"] for task in outcome.evidence.tasks.values())
    tasks = sum(states.values())
    return [
        *_title(f"Storm {plan.seed}"),
        _row("tasks", tasks),
        *(_row(f"  {state}", count) for state, count in sorted(states.items(), key=lambda item: -item[1])),
        _row("processes", f"{plan.workers} workers, {plan.schedulers} schedulers, 1 database"),
        _row("time", f"{outcome.seconds:.0f} s, {tasks / outcome.seconds:,.0f} tasks/s"),
        _row("faults", f"{outcome.journal.dealt.total():,}, one each {plan.gap_seconds:g} s on average"),
    ]


def _faults(outcome: Outcome) -> list[str]:
    dealt, struck = outcome.journal.dealt, outcome.journal.struck
    rows = [_row(kind, dealt[kind], struck[kind]) for kind in DECK]
    return [*_title("fault", "dealt", "struck"), *rows, _row("", dealt.total(), struck.total())]


def _attempts(outcome: Outcome) -> list[str]:
    """How they ended, and the time that slots spent on them."""
    counts, seconds = _seconds_by_outcome(outcome.evidence)
    busy = sum(seconds.values()) or 1.0
    rows = [
        _row(name, count, f"{seconds[name]:,.0f} s", f"{seconds[name] / busy:.1%}")
        for name, count in counts.most_common()
    ]
    wasted = busy - seconds["succeeded"]
    return [
        *_title("attempts", "", "busy", "share"),
        *rows,
        _row("wasted", sum(counts.values()) - counts["succeeded"], f"{wasted:,.0f} s", f"{wasted / busy:.1%}"),
    ]


def _seconds_by_outcome(evidence: Evidence) -> tuple[Counter[str], defaultdict[str, float]]:
    """Of one that was cut off only its worker knew since when it ran: it counts its stage's mean at most."""
    attempts = [attempt for of_task in evidence.attempts.values() for attempt in of_task]
    won: defaultdict[Stage, list[float]] = defaultdict(list)
    for attempt in attempts:
        if attempt["outcome"] == "succeeded":
            won[attempt["job_id"], attempt["stage"]].append(attempt["run_seconds"])
    means = {stage: sum(seconds) / len(seconds) for stage, seconds in won.items()}
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for attempt in attempts:
        outcome, ran = attempt["outcome"], attempt["run_seconds"]
        if outcome in _CUT_OFF:
            ran = min(ran, means.get((attempt["job_id"], attempt["stage"]), ran))
        counts[outcome] += 1
        seconds[outcome] += ran
    return counts, seconds


def _recovery(outcome: Outcome) -> list[str]:
    ends = sorted(attempt["finished_at"] for of_task in outcome.evidence.attempts.values() for attempt in of_task)
    standstill = max(((b - a).total_seconds() for a, b in pairwise(ends)), default=0.0)
    outages, workers = outcome.outages, Counter(row["state"] for row in outcome.evidence.workers)
    most = max(outcome.evidence.tasks.values(), key=lambda task: task["losses"])
    return [
        *_title("recovery"),
        _row(
            "workers: registered, lost, stopped in good order",
            f"{workers.total()}, {workers['lost']}, {workers['stopped']}",
        ),
        _row(
            "database away: mean, longest",
            f"{sum(outages) / max(1, len(outages)):.1f} s, {max(outages, default=0):.1f} s",
        ),
        _row("longest time in which no attempt ended", f"{standstill:.1f} s"),
        _row(f"most workers lost by one task (losses_max {LOSSES_MAX:,})", most["losses"]),
        _row("objects of losing attempts, referenced by nobody", _orphans(outcome.evidence)),
    ]


def _orphans(evidence: Evidence) -> int:
    outputs = [task["output"] or {} for task in evidence.tasks.values()]
    logs = {attempt["log"] for of_task in evidence.attempts.values() for attempt in of_task}
    named = logs | {output[name] for output in outputs for name in ("uri", "rejects") if name in output}
    return len(evidence.sizes.keys() - named - evidence.contents.keys())


def _truth(outcome: Outcome) -> list[str]:
    lines = _title("ground truth", "looked at", "wrong")
    for check in outcome.checks:
        lines.append(_row(check.name, check.looked_at, len(check.wrong)))
    for check in outcome.checks:
        if check.wrong:
            lines += ["", f"{check.name}:", *(f"  {wrong}" for wrong in check.wrong[:_WRONG_SHOWN])]
            if len(check.wrong) > _WRONG_SHOWN:
                lines.append(f"  … and {len(check.wrong) - _WRONG_SHOWN:,} more")
    return lines
