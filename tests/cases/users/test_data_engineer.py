"""A data engineer makes typed Parquet of a messy CSV, sees what was wrong with it, and has it done every night."""

import json

import pyarrow.parquet as pq

from tests.cases.conftest import CaseGrid
from tests.cases.users.conftest import Person
from tests.until import until

ORDERS = """id,country,amount,note
1,DE,10.50,"in one
note"
2,FR,free,plain
3,DE,7.25,"a, b"
4,FR,1.00
"""

JOB = """
name: orders-{run_date}
input: {type: lines, format: csv, multiline: true, uri: "INPUT"}
stages:
  - processor: orders
    columns: {id: int64, amount: "decimal(12,2)"}
    inputs: {countries: "COUNTRIES"}
    rejects_max: 10
merge: {type: parquet, filename: orders.parquet}
"""

SQL = "SELECT id, amount, name FROM input JOIN countries ON country = code"


async def test_a_messy_csv_becomes_typed_parquet_tonight_and_for_days_past(grid: CaseGrid, person: Person) -> None:
    bucket = grid.put({"2026-01-01/orders.csv": ORDERS, "countries.csv": "code,name\nDE,Germany\nFR,France\n"})
    person.has(
        {
            "job.yaml": JOB.replace("INPUT", bucket + "{run_date}/orders.csv").replace(
                "COUNTRIES", bucket + "countries.csv"
            ),
            "orders/processor.yaml": f"name: orders\nsql: {SQL}\ninputs: {{countries: null}}\noutput: orders.parquet\n"
            "output_format: parquet\n",
        }
    )
    assert person.types("piecework processors push orders") == "orders@1\n"
    person.types(
        "piecework schedules create orders job.yaml --cron '30 2 * * *' --time-zone Europe/Berlin --not-on 'L * *'"
    )
    person.types("piecework schedules backfill orders --from 2026-01-01 --to 2026-01-01")
    await until(lambda: any(run["job_id"] for run in grid.client.list_schedule_runs("orders")))
    person.types("piecework wait orders-2026-01-01@last")
    person.types("piecework results orders-2026-01-01@last --download out")

    table = pq.read_table(person.home / "out" / "orders.parquet")
    assert [str(field.type) for field in table.schema] == ["int64", "decimal128(12, 2)", "string"]
    rows = sorted((row["id"], str(row["amount"]), row["name"]) for row in table.to_pylist())
    assert rows == [(1, "10.50", "Germany"), (3, "7.25", "Germany")]
    rejects = [json.loads(line) for line in (person.home / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [reject["source"]["byte"] for reject in rejects] == [ORDERS.index("2,FR"), ORDERS.index("4,FR")]
    assert "free" in rejects[0]["reason"] and rejects[1]["reason"] == "the row has 3 fields, the header has 4"
    runs = person.types("piecework schedules runs orders")
    assert "succeeded" in runs and "LATE" in runs
    person.types("piecework schedules delete orders")
    assert person.steps == 7


def test_a_file_of_this_machine_is_refused_as_a_schedules_input(person: Person) -> None:
    person.has({"orders.csv": ORDERS, "job.yaml": "input: {type: lines, uri: orders.csv}\nstages: [processor: x]\n"})
    seen = person.types("piecework schedules create trap job.yaml --cron '30 2 * * *'", exit_code=2)
    assert "a schedule can't read a file of this machine" in seen
