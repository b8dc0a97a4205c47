"""`piecework cost` and `piecework costs`: what a job costs, and what all jobs cost by day."""

from typing import Annotated, Any

import typer

from piecework.cli.options import JobId
from piecework.cli.session import Session, command
from piecework.shapes import CostList, JobCost


def cost(session: Session, job_id: JobId) -> None:
    """Show what a job has cost so far, in US dollars."""
    session.show(session.client.get_job_cost(job_id), lambda job: _show_job(session, job))


def costs(
    session: Session,
    days: Annotated[int, typer.Option(min=1, help="How many days, today included.")] = 30,
    pool: Annotated[str | None, typer.Option(help="Of this pool alone.")] = None,
    by_label: Annotated[str | None, typer.Option(metavar="NAME", help="Tell apart this label's values.")] = None,
) -> None:
    """Show what all jobs cost by day and pool, in US dollars."""
    found = session.client.list_costs(days=days, pool=pool, by_label=by_label)
    session.show(found, lambda found: _show_days(session, found))


def _show_job(session: Session, job: JobCost) -> None:
    from piecework import display

    display.facts(
        session.out,
        [
            ("job", job["job_id"]),
            ("nodes", _nodes(job)),
            ("SQS requests", f"at most {_dollars(job['sqs_requests_max'])}"),
            ("S3 requests", f"about {_dollars(job['s3_requests'])}"),
            ("outputs", f"about {_dollars(job['storage_per_month'])} a month, while they are kept"),
            ("prices", f"of requests and outputs: {job['prices_region']}, {job['prices_date']}"),
        ],
    )
    print()
    display.table(
        session.out,
        ["STAGE", "~NAME", "~POOL", ">SLOT TIME", ">NODES"],
        (
            (stage["stage"], stage["name"], stage["pool"], display.duration(stage["worker_seconds"]), _nodes(stage))
            for stage in job["stages"]
        ),
    )


def _show_days(session: Session, found: CostList) -> None:
    from piecework import display

    display.table(
        session.out,
        ["DAY", "~POOL", "~?LABEL", ">ATTEMPTS", ">SLOT TIME", ">NODES"],
        (
            (
                item["day"],
                item["pool"],
                item["label"],
                item["attempts"],
                display.duration(item["worker_seconds"]),
                _nodes(item),
            )
            for item in found["items"]
        ),
    )


def _nodes(cost: Any) -> str:
    """`$1.20`, `$1.20 and 5 min of unknown price`, `unknown`."""
    from piecework.display import duration

    if cost["nodes"] is None:
        return "unknown"
    rest = f" and {duration(cost['unpriced_seconds'])} of unknown price" if cost["unpriced_seconds"] else ""
    return f"{_dollars(cost['nodes'])}{rest}"


def _dollars(amount: float) -> str:
    """With as many digits as tell something: two, or more of what is less than ten cents."""
    if 0 < amount < 1e-6:
        return "less than $0.000001"
    return f"${amount:,.2f}" if amount >= 0.1 or not amount else f"${amount:.6f}".rstrip("0")


def register(app: typer.Typer) -> None:
    command(app, "cost")(cost)
    command(app, "costs")(costs)
