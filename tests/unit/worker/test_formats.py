"""Record formats, where a file holds what a reader must not take for a record."""

from pathlib import Path

from services.contract.task_error import Malformed
from services.worker.child.readers import open_reader


def test_a_csv_quote_that_never_closes_is_a_reject(tmp_path: Path) -> None:
    """Such as a field with a newline that the split has cut: its torn half must not pass for a record."""
    path = tmp_path / "part.csv"
    path.write_bytes(b'a,b\n1,"x\ny"\n3,"q\n')

    reader = open_reader(path)
    records, faults = [], []
    for raw in reader.raws():
        try:
            records.append(reader.parse(raw))
        except Malformed as fault:
            faults.append((str(fault), reader.offset(raw)))

    assert records == [{"a": "1", "b": "x\ny"}]
    assert faults == [("not CSV: unexpected end of data", 12)]
