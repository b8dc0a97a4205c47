"""Row groups of a Parquet output: as many rows, or bytes, as a reader can take at once."""

from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from services.worker.child import parquet_writer
from services.worker.child.parquet_writer import ParquetWriter


def group_rows(path: Path, batches: int) -> list[int]:
    """The rows of each row group of a file that is written batch by batch of 10,000 numbers."""

    def refuse(origin: Any, reason: str, rows: int) -> None:
        raise AssertionError(reason)

    writer = ParquetWriter(path, lambda: None, refuse)
    for batch in range(batches):
        writer.write_all([{"n": batch}] * 10_000)
    writer.close()
    metadata = pyarrow.parquet.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def test_a_row_group_ends_with_the_batch_that_fills_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "_GROUP_ROWS", 20_000)
    assert group_rows(tmp_path / "p.parquet", batches=5) == [20_000, 20_000, 10_000]


def test_a_row_group_ends_with_the_batch_that_fills_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "_GROUP_BYTES", 3 * 80_000)
    assert group_rows(tmp_path / "p.parquet", batches=7) == [30_000, 30_000, 10_000]


def test_few_rows_are_one_row_group(tmp_path: Path) -> None:
    assert group_rows(tmp_path / "p.parquet", batches=3) == [30_000]
