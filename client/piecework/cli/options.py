"""Parameters that several commands share."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import typer

from piecework.cli import refs
from piecework.cli.output import parse_time


def parse_seconds(text: str) -> float:
    """The seconds of `90s`, `2h`, `1h30m`."""
    from piecework.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


JobId = Annotated[UUID, refs.JOB.argument(), refs.JOB]
JobIds = Annotated[list[UUID], refs.JOB.argument(metavar="JOB..."), refs.JOB]
ScheduleId = Annotated[UUID, refs.SCHEDULE.argument(), refs.SCHEDULE]
TriggerId = Annotated[UUID, refs.TRIGGER.argument(), refs.TRIGGER]
UploadId = Annotated[UUID, refs.UPLOAD.argument(), refs.UPLOAD]
WorkerId = Annotated[UUID, refs.WORKER.argument(), refs.WORKER]
EndpointId = Annotated[UUID, refs.ENDPOINT.argument(), refs.ENDPOINT]
DeliveryId = Annotated[UUID, refs.DELIVERY.argument(), refs.DELIVERY]
KeyId = Annotated[UUID, refs.KEY.argument(), refs.KEY]
StageNumber = Annotated[int, refs.STAGE.argument(), refs.STAGE]
TaskIndex = Annotated[int, typer.Argument(metavar="INDEX", min=0, help="Index of the task, from 0.")]
All = Annotated[bool, typer.Option("--all", help="Everything, page by page.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="Show at most this many.")]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=parse_time, metavar="TIME", help="Not before: 2h, 3d, or 2027-01-31T17:00."),
]
CreatedBy = Annotated[str | None, typer.Option(metavar="PRINCIPAL", help="Only what belongs to this principal.")]
Mine = Annotated[bool, typer.Option("--mine", help="Only what belongs to you.")]
