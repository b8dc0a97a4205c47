"""What a server's packages alone can read: a laptop has pandas and numpy, but requirements/server.txt does not."""

import io
import json
import re
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.ipc
import pyarrow.orc
import pyarrow.parquet
import pytest
import zstandard

ROOT = Path(__file__).parents[3]
NS, DECIMAL = pyarrow.timestamp("ns"), pyarrow.decimal128(20, 2)
STAMP, SHOWN = 1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001"
TIMES = pyarrow.table(
    {
        "seen": pyarrow.array([STAMP], NS),
        "clock": pyarrow.array([1], pyarrow.time64("ns")),
        "price": pyarrow.array([Decimal("1.50")], DECIMAL),
        "half": pyarrow.array([0.5], pyarrow.float16()),
        "lists": pyarrow.array([[STAMP]], pyarrow.list_(NS)),
        "word": pyarrow.array(["a"]).dictionary_encode(),
    }
)
TIMES_READ = {"seen": SHOWN, "clock": "00:00:00.000000001", "half": 0.5, "lists": [SHOWN], "word": "a"}


def parquet(table: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: Any) -> bytes:
    sink = io.BytesIO()
    with pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def orc() -> bytes:
    sink = io.BytesIO()
    pyarrow.orc.write_table(pyarrow.table({"seen": pyarrow.array([STAMP], NS), "s": ["a"]}), sink)
    return sink.getvalue()


def avro() -> bytes:
    sink = io.BytesIO()
    day = {"type": "long", "logicalType": "timestamp-micros"}
    schema = {"type": "record", "name": "r", "fields": [{"name": "seen", "type": day}]}
    fastavro.writer(sink, schema, [{"seen": datetime(2026, 1, 1)}])
    return sink.getvalue()


INT96 = {"use_deprecated_int96_timestamps": True}
FILES: dict[str, tuple[bytes, dict[str, Any]]] = {
    "times.parquet": (parquet(TIMES), TIMES_READ),
    "int96.parquet": (parquet(TIMES.select(["seen"]), **INT96), {}),
    "times.arrow": (arrow(TIMES), TIMES_READ),
    "times.orc": (orc(), {"seen": SHOWN, "s": "a"}),
    "times.avro": (avro(), {"seen": "2026-01-01T00:00:00+00"}),
    "times.jsonl.zst": (zstandard.compress(b'{"seen": "2026"}\n'), {"seen": "2026"}),
}
SCRIPT = """
import sys
at_start = set(sys.modules)
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from services.worker.child import records
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source

directory = Path(sys.argv[1])
records.load_function = lambda reference: lambda record: record
task = {"stage": 0, "index": 0, "sources": {}}
for path in sorted((directory / "in").iterdir()):
    for format in ("jsonl", "parquet"):
        with Rejects(directory / "rejects.jsonl", None, task) as rejected:
            common = {"rejected": rejected, "output_format": format, "params": {}}
            records.apply_to_records("", input=path, format=None, options={}, columns={},
                                     output=directory / f"{path.name}.records.{format}", **common)
            room = Room(1 << 29, 1, directory / f"{path.name}.{format}.spill")
            run_query("SELECT * FROM input", input=Source(path), inputs={}, room=room, check_input=lambda: None,
                      output=directory / f"{path.name}.sql.{format}", **common)
print(*sorted(name for name in set(sys.modules) - at_start if name in sys.argv[2].split(",")))
"""


def packages(name: str) -> set[str]:
    return set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / name).read_text(), re.MULTILINE))


def lacking() -> set[str]:
    """The modules of packages that a laptop has and a server has not, by what is installed here."""
    lacking = packages("local.txt") - packages("server.txt")
    return {module for module, names in packages_distributions().items() if lacking & {n.lower() for n in names}}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("server")
    (directory / "in").mkdir()
    for name, (data, _) in FILES.items():
        (directory / "in" / name).write_bytes(data)
    command = [sys.executable, "-c", SCRIPT, str(directory), ",".join(lacking())]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
    assert not (directory / "rejects.jsonl").exists()
    return directory


def test_pandas_and_numpy_are_among_what_a_server_lacks() -> None:
    assert {"pandas", "numpy"} <= lacking() and not {"pyarrow", "duckdb", "fastavro", "zstandard"} & lacking()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("reader", ["records", "sql"])
def test_every_format_is_read_with_the_packages_of_a_server(outputs: Path, name: str, reader: str) -> None:
    [line] = (outputs / f"{name}.{reader}.jsonl").read_text().splitlines()
    found = {key: str(value).replace(" ", "T") for key, value in json.loads(line).items()}
    for key, value in FILES[name][1].items():
        assert found[key].removesuffix(":00") == str(value).removesuffix(":00")
    table = pyarrow.parquet.read_table(outputs / f"{name}.{reader}.parquet")
    assert table.num_rows == 1
    if name in ("times.parquet", "times.arrow", "times.orc"):
        assert table["seen"].cast(pyarrow.int64()).to_pylist() == [STAMP]
    if name == "int96.parquet" and reader == "records":
        assert found["seen"] == SHOWN and table["seen"].cast(pyarrow.int64()).to_pylist() == [STAMP]
