"""Parameters that several commands share."""

from typing import Annotated
from uuid import UUID

import typer

JobId = Annotated[UUID, typer.Argument(metavar="JOB_ID", help="Job, as `piecework submit` printed it.")]
StageNumber = Annotated[int, typer.Argument(metavar="STAGE", min=0, help="Number of the stage, from 0.")]
TaskIndex = Annotated[int, typer.Argument(metavar="INDEX", min=0, help="Index of the task, from 0.")]
All = Annotated[bool, typer.Option("--all", help="Everything, page by page.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="Show at most this many.")]
CreatedBy = Annotated[str | None, typer.Option(metavar="PRINCIPAL", help="Only what belongs to this principal.")]
Mine = Annotated[bool, typer.Option("--mine", help="Only what belongs to you.")]
