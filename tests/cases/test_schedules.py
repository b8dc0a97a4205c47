"""A schedule as a person has it: made of a job file, run for past days, each of which reads the file of its day."""

import json
from pathlib import Path

from tests.cases.conftest import CaseGrid
from tests.until import until

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


async def test_each_run_of_a_backfill_reads_the_file_of_its_day(grid: CaseGrid, tmp_path: Path) -> None:
    grid.push()
    folder = grid.put({f"{day.replace('-', '/')}/in.jsonl": json.dumps({"day": day}) + "\n" for day in DAYS})
    (tmp_path / "job.yaml").write_text(
        "name: daily-{run_date}\n"
        f'input: {{type: lines, format: jsonl, uri: "{folder}{{run_date:%Y/%m/%d}}/in.jsonl"}}\n'
        "stages: [processor: case-same-jsonl]\n"
    )
    times = ("--cron", "30 2 * * *", "--time-zone", "Europe/Berlin", "--overlap", "queue")
    grid.command("schedules", "create", "daily", "job.yaml", *times, directory=tmp_path)

    grid.command("schedules", "backfill", "daily", "--from", DAYS[0], "--to", DAYS[-1], "--running-max", "2")

    async def all_ended() -> bool:
        return all(run["job_state"] == "succeeded" for run in grid.client.list_schedule_runs("daily"))

    await until(all_ended)
    runs = sorted(grid.client.list_schedule_runs("daily"), key=lambda run: run["scheduled_at"])
    assert [run["scheduled_at"] for run in runs] == [f"{day}T01:30:00Z" for day in DAYS]
    ended = [grid.ended(str(run["job_id"])) for run in runs]
    assert [each.job["name"] for each in ended] == [f"daily-{day}" for day in DAYS]
    assert [each.records() for each in ended] == [[{"day": day}] for day in DAYS]
    [backfill] = grid.client.list_backfills("daily")
    assert backfill["runs"]["submitted"] == len(DAYS) and backfill["ended_at"] is not None
    grid.command("schedules", "delete", "daily")
