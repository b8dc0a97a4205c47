"""The raw data: `python examples/transform/data.py DIR [--gigabytes N]` writes orders.csv and orders.parquet.

Each has at least N GB (default: 0.1) of the same kind of orders, made by DuckDB from a fixed seed. In the CSV, the
quantity of one order in a thousand is not a number.
"""

import argparse
from pathlib import Path

import duckdb

SEED = 2026
ROW_GROUP_ROWS = 122_880
CSV_BYTES, PARQUET_BYTES = 82, 49  # of an order, or a little less

ORDERS = """
    SELECT
        1000000 + i AS order_id,
        TIMESTAMP '2025-01-01' + to_seconds(h % 31536000) AS placed_at,
        ['DE', 'FR', 'GB', 'IT', 'JP', 'US'][1 + (h >> 8) % 6] AS country,
        md5(concat(i, '-', {seed})) AS customer,
        {quantity} AS quantity,
        99 + (h >> 24) % 50000 AS unit_cents,
        ((h >> 40) % 4) * 5 AS discount_percent,
        ['paid', 'paid', 'paid', 'shipped', 'shipped', 'cancelled'][1 + (h >> 44) % 6] AS status,
        CASE (h >> 50) % 40 WHEN 0 THEN 'ring twice, then wait' WHEN 1 THEN 'say "Müller"' END AS note
    FROM (SELECT range AS i, (hash(range, {seed}) >> 1)::BIGINT AS h FROM range({orders}))
"""
QUANTITY = "1 + (h >> 16) % 9"
QUANTITY_OR_NOT = f"CASE (h >> 20) % 1000 WHEN 0 THEN 'n/a' ELSE ({QUANTITY})::VARCHAR END"


def write_csv(path: Path, gigabytes: float) -> None:
    _write(path, int(gigabytes * 1e9 / CSV_BYTES), QUANTITY_OR_NOT, "HEADER")


def write_parquet(path: Path, gigabytes: float) -> None:
    _write(path, int(gigabytes * 1e9 / PARQUET_BYTES), QUANTITY, f"ROW_GROUP_SIZE {ROW_GROUP_ROWS}")


def _write(path: Path, orders: int, quantity: str, options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    query = ORDERS.format(seed=SEED, orders=orders, quantity=quantity)
    duckdb.sql(f"COPY ({query}) TO '{path}' ({options})")
    print(f"{path.name}: {orders:,} orders, {path.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--gigabytes", type=float, default=0.1)
    arguments = parser.parse_args()
    write_csv(arguments.directory / "orders.csv", arguments.gigabytes)
    write_parquet(arguments.directory / "orders.parquet", arguments.gigabytes)
