"""Checks the results: `python examples/transform/check.py DATA_DIR RESULTS_DIR`.

What the jobs made by DuckDB and by a Python function is compared, month by month and country by country, with what
Arrow's compute functions make of the raw data here.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

SUMS = ("orders", "order_ids", "quantity", "net_cents")

Totals = dict[tuple[str, str], list[int]]  # of each month and country: the SUMS


def read(path: Path) -> Iterable[pa.RecordBatch]:
    """A file of any size, batch by batch."""
    if path.suffix == ".parquet":
        return pa.parquet.ParquetFile(path).iter_batches()
    if path.suffix == ".jsonl":
        return pa.json.open_json(path)
    text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in ("quantity", "month")})
    return pa.csv.open_csv(path, convert_options=text)


def settle(raw: pa.RecordBatch) -> pa.Table:
    """Raw orders as the jobs should make them."""
    table = pa.table(raw)
    table = table.filter(pc.not_equal(table["status"], "cancelled"))
    if pa.types.is_string(table["quantity"].type):
        table = table.filter(pc.utf8_is_decimal(table["quantity"]))
    quantity = table["quantity"].cast(pa.int64())
    rest = pc.subtract(100, table["discount_percent"])
    net = pc.divide(pc.add(pc.multiply(pc.multiply(quantity, table["unit_cents"]), rest), 50), 100)
    columns = {"order_id": table["order_id"], "country": table["country"], "quantity": quantity, "net_cents": net}
    return pa.table({**columns, "month": pc.strftime(table["placed_at"], "%Y-%m")})


def add_up(tables: Iterable[pa.Table]) -> Totals:
    totals: Totals = defaultdict(lambda: [0] * len(SUMS))
    for table in tables:
        whole = table.set_column(table.column_names.index("quantity"), "quantity", table["quantity"].cast(pa.int64()))
        sums = [("order_id", "count"), ("order_id", "sum"), ("quantity", "sum"), ("net_cents", "sum")]
        for row in whole.group_by(["month", "country"]).aggregate(sums).to_pylist():
            total = totals[row["month"], row["country"]]
            for place, (column, function) in enumerate(sums):
                total[place] += row[f"{column}_{function}"]
    return totals


def read_revenue(path: Path) -> Totals:
    rows = pa.table(pa.csv.read_csv(path)).to_pylist()
    return {(row["month"], row["country"]): [row[name] for name in SUMS] for row in rows}


def compare(job: str, found: Totals, expected: Totals) -> None:
    if found.keys() != expected.keys():
        sys.exit(f"{job}: {len(found)} months and countries, here {len(expected)}")
    for key, sums in expected.items():
        if list(found[key]) != sums:
            sys.exit(f"{job}: {dict(zip(SUMS, found[key], strict=True))} of {key}, here {sums}")
    orders, _, _, net = map(sum, zip(*expected.values(), strict=True))
    print(f"{job}: {orders:,} orders, {net / 100:,.2f} net, the same in each of {len(expected)} months and countries")


def check_rejects(data: Path, results: Path) -> None:
    """The rejects are the orders whose quantity is not a number, except the cancelled ones."""
    bad = 0
    for batch in read(data / "orders.csv"):
        table = pa.table(batch)
        table = table.filter(pc.not_equal(table["status"], "cancelled"))
        bad += table.num_rows - pc.sum(pc.utf8_is_decimal(table["quantity"])).as_py()
    with (results / "rejects.jsonl").open() as file:
        reasons = [json.loads(line)["reason"] for line in file]
    if len(reasons) != bad:
        sys.exit(f"{len(reasons)} orders were rejected, {bad} are unreadable")
    print(f"{results.name}: {bad:,} orders rejected, just the unreadable ones; for example: {reasons[0]}")


def main(data: Path, results: Path) -> None:
    csv = add_up(map(settle, read(data / "orders.csv")))
    parquet = add_up(map(settle, read(data / "orders.parquet")))
    for job, file, expected in (
        ("transform-csv-sql", "orders.parquet", csv),
        ("transform-csv-records", "orders.csv", csv),
        ("transform-parquet-records", "orders.jsonl", parquet),
    ):
        compare(job, add_up(map(pa.table, read(results / job / file))), expected)
    compare("transform-parquet-sql", read_revenue(results / "transform-parquet-sql" / "revenue.csv"), parquet)
    check_rejects(data, results / "transform-csv-records")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
