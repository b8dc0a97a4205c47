"""SQL over a part: what the view `input` is in each format, what is counted and rejected, what a query may not do."""

import bz2
import gzip
import json
import random
from datetime import date
from pathlib import Path
from typing import Any

import fastavro
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from services.contract.task_error import TaskError
from services.inputs.csv_dialect import CsvDialect
from services.worker.child.rejects import Rejects
from services.worker.child.sql import Room, run_query
from services.worker.child.sql_views import Source


class Part:
    """A file, or a directory of files, to query; and what came of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.inputs: dict[str, Path] = {}
        self.rejects: list[Any] = []
        self.checks = 0

    def put(self, name: str, content: bytes | str) -> Path:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def query(self, query: str, name: str = "part.csv", *, output_format: str = "jsonl", **job: Any) -> dict[str, int]:
        rejects = self.directory / "rejects.jsonl"
        rejects.unlink(missing_ok=True)
        task = {"stage": 0, "index": 3, "sources": {name: {"uri": "s3://b/whole", "byte": 500}}}
        spill = self.directory / f"spill-{len(list(self.directory.iterdir()))}"
        with Rejects(rejects, job.get("rejects_max"), task) as rejected:
            counts = run_query(
                query,
                input=Source(
                    self.directory / name,
                    job.get("format"),
                    job.get("options", {}),
                    job.get("declared", {}),
                    job.get("found"),
                ),
                inputs=self.inputs,
                output=self.directory / "output",
                output_format=output_format,
                params=job.get("params", {}),
                room=Room(job.get("memory_bytes", 512 << 20), 1, spill),
                rejected=rejected,
                check_input=self.check,
            )
        self.rejects = [json.loads(line) for line in rejects.read_text().splitlines()] if rejects.exists() else []
        return counts

    def check(self) -> None:
        self.checks += 1

    def rows(self, query: str, name: str = "part.csv", **job: Any) -> list[Any]:
        self.query(query, name, **job)
        return [json.loads(line) for line in (self.directory / "output").read_text().splitlines()]


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part(tmp_path)


def counts(
    records_in: int, records_out: int, rejected: int = 0, *, filtered: int = 0, added: int = 0
) -> dict[str, int]:
    return {
        "records_in": records_in,
        "records_out": records_out,
        "records_rejected": rejected,
        "records_filtered": filtered,
        "records_added": added,
    }


@pytest.mark.parametrize(
    ("name", "content", "options", "rows"),
    [
        ("p.csv", '\ufeffid,at,n\r\n007,2013-01-31T05:00:00,1.50\r\n8,"a ""b""\r\nc",\r\n', {}, ["007", "8"]),
        ("p.tsv", "id\tat\tn\n007\t2013-01-31T05:00:00\t1.50\n8\ta,b\t\n", {}, ["007", "8"]),
        ("p.csv.gz", gzip.compress(b"id,at,n\n007,2013-01-31T05:00:00,1.50\n", mtime=0), {}, ["007"]),
        ("p.csv.bz2", bz2.compress(b"id,at,n\n007,2013-01-31T05:00:00,1.50\n"), {}, ["007"]),
        ("p.csv", "id;at;n\n'00;7';2013-01-31T05:00:00;1.50\n", {"csv": {"delimiter": ";", "quote": "'"}}, ["00;7"]),
        ("p.csv", 'id,at,n\n"00\\"7",2013-01-31T05:00:00,1.50\n', {"csv": {"escape": "\\"}}, ['00"7']),
        (
            "p.jsonl",
            '{"id": "007", "at": "2013-01-31T05:00:00", "n": "1.50", "sub": [{"at": "2013-01-31T05:00:00"}]}\n',
            {},
            ["007"],
        ),
    ],
)
def test_text_stays_text(part: Part, name: str, content: bytes | str, options: dict[str, Any], rows: list[str]) -> None:
    part.put(name, content)
    found = part.rows("SELECT * FROM input", name, options=options)
    assert [row["id"] for row in found] == rows
    assert (found[0]["at"], found[0]["n"]) == ("2013-01-31T05:00:00", "1.50")
    assert found[0].get("sub", [{"at": "2013-01-31T05:00:00"}]) == [{"at": "2013-01-31T05:00:00"}]


def test_json_fields_that_are_rare_are_known(part: Part) -> None:
    part.put("p.jsonl", '{"n": 1}\n' * 30_000 + '{"n": 2.5, "rare": {"x": [true]}}\n')
    assert part.rows("SELECT max(n) AS n, sum(rare.x[1]::INT) AS rare FROM input", "p.jsonl") == [{"n": 2.5, "rare": 1}]


def test_parquet_in_and_out(part: Part) -> None:
    table = pyarrow.table({"n": [1, 2, None], "day": [date(2013, 1, d) for d in (1, 2, 3)]})
    pyarrow.parquet.write_table(table, part.directory / "p.parquet")
    query = "SELECT n * 2 AS n, day FROM input WHERE n > {params.least}"
    assert part.query(query, "p.parquet", output_format="parquet", params={"least": 1}) == counts(3, 1, filtered=2)
    assert pyarrow.parquet.read_table(part.directory / "output").to_pylist() == [{"n": 4, "day": date(2013, 1, 2)}]
    part.query("SELECT * FROM input", "p.parquet", output_format="csv")
    assert (part.directory / "output").read_text() == "n,day\n1,2013-01-01\n2,2013-01-02\n,2013-01-03\n"


def test_arrow_avro_and_csv_without_a_header(part: Part) -> None:
    table = pyarrow.table({"n": [1, 2], "day": [date(2013, 1, d) for d in (1, 2)]})
    with pyarrow.ipc.new_file(str(part.directory / "p.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert part.query("SELECT n, day + 1 AS day FROM input", "p.arrow", output_format="parquet") == counts(2, 2)
    days = pyarrow.parquet.read_table(part.directory / "output")["day"].to_pylist()
    assert [day.day for day in days] == [2, 3]
    schema = {"type": "record", "name": "r", "fields": [{"name": "n", "type": "long"}, {"name": "t", "type": "string"}]}
    with (part.directory / "p.avro").open("wb") as file:
        fastavro.writer(file, schema, [{"n": 1, "t": "007"}, {"n": 2, "t": "x"}])
    assert part.rows("SELECT sum(n)::INT AS n, min(t) AS t FROM input", "p.avro") == [{"n": 3, "t": "007"}]
    part.put("p.csv", "1,x\n2,y\n")
    options = {"csv": {"header": False}}
    assert part.rows("SELECT column1 FROM input WHERE column0 = '2'", "p.csv", options=options) == [{"column1": "y"}]


def test_what_is_counted(part: Part) -> None:
    part.put("part.csv", "a,b\n" + "1,2\n" * 1000)
    assert part.query("SELECT * FROM input") == counts(1000, 1000)
    assert part.query("SELECT a FROM input WHERE b = '3'") == counts(1000, 0, filtered=1000)
    assert part.query("SELECT count(*) AS n FROM input") == counts(1000, 1, filtered=999)
    assert part.query("SELECT x.a FROM input x, range(3)") == counts(1000, 3000, added=2000)
    self_join = "SELECT DISTINCT x.a FROM input x JOIN input y ON x.a = y.a AND x.b = y.b"
    assert part.query(self_join) == counts(1000, 1, filtered=999)
    part.inputs["fees"] = part.put("fees.csv", "b,fee\n2,10\n")
    assert part.query("SELECT a, fee::INT AS fee FROM input JOIN fees USING (b)") == counts(1000, 1000)


def test_a_bad_line_is_rejected_with_its_place(part: Part) -> None:
    body = b'a,b\n1,2\n"x\ny",4\n5\n6,7,8\n\xff,1\n9,10\n'
    part.put("part.csv", body)
    assert part.query("SELECT x.a FROM input x JOIN input y USING (a)") == counts(6, 3, 3)
    assert [(line["source"], line["record"]) for line in part.rejects] == [
        ({"uri": "s3://b/whole", "byte": 500 + body.index(text), "record": number}, shown)
        for text, number, shown in [
            (b"5\n", 3, ["5"]),
            (b"6,7", 4, ["6", "7", "8"]),
            (b"\xff", 5, {"a": "\\xff", "b": "1"}),
        ]
    ]
    assert [line["reason"] for line in part.rejects] == [
        "the row has 1 fields, the header has 2",
        "the row has 3 fields, the header has 2",
        "not UTF-8: byte 0xff at byte 0 of the record",
    ]
    assert part.rows("SELECT TRY_CAST(b AS INT) AS b FROM input WHERE a <> '1'") == [{"b": 4}, {"b": 10}]
    with pytest.raises(TaskError, match="rejects_max = 1 ") as exceeded:
        part.query("SELECT a FROM input", rejects_max=1)
    assert exceeded.value.type == "rejects_exceeded"


@pytest.mark.parametrize("body", ['a,b\r\n1,2\n"3",4\r\n', 'a,b\n1,"l1\r\nl2"\n3,4\n', "a,b\n1,2\r\n\r\n3,4\n"])
def test_mixed_line_ends(part: Part, body: str) -> None:
    part.put("part.csv", body)
    assert part.query("SELECT a FROM input ORDER BY a") == counts(2, 2)
    part.put("part.csv", body + "9\n")
    assert part.query("SELECT a FROM input ORDER BY a") == counts(3, 2, 1)


def test_a_directory_is_one_view_by_the_names_of_columns(part: Part) -> None:
    for name, content in {
        "parts/00000000.csv": "a,b\n1,2\n",
        "parts/00000001.csv": "b,a\n4,3\n",
        "parts/00000002.csv": "a,b\n5,6\n",
        "parts/00000003.json": '{"a": "7"}',
        "parts/00000004.csv": "",
        "parts/00000005.jsonl": '{"c": 1, "a": "8"}\n',
        "parts/00000006.json": "null",  # its task made nothing
    }.items():
        part.put(name, content)
    rows = part.rows("SELECT a, b, c FROM input ORDER BY a", "parts")
    assert rows == [
        {"a": "1", "b": "2", "c": None},
        {"a": "3", "b": "4", "c": None},
        {"a": "5", "b": "6", "c": None},
        {"a": "7", "b": None, "c": None},
        {"a": "8", "b": None, "c": 1},
    ]


NO_COLUMNS = {
    "p.csv": "",
    "p.jsonl": "",
    "p.parquet": "",
    "p.orc": "",
    "p.json": "null",
    "blank.csv": "\r\n\n",
    "blank.jsonl": "\n\n",
    "list.json": "[]",
    "p.csv.gz": gzip.compress(b"", mtime=0),
    "p.csv.bz2": bz2.compress(b"\n"),
    "p.jsonl.bz2": bz2.compress(b""),
    "parts/0.csv": "",
}


@pytest.mark.parametrize(("name", "content"), NO_COLUMNS.items())
def test_what_tells_of_no_column_gives_nothing_and_never_a_file_that_is_not_parquet(
    part: Part, name: str, content: str | bytes
) -> None:
    part.put(name, content)
    for output_format in ("parquet", "compact", "jsonl", "csv"):
        assert part.query("SELECT anything FROM input", name.split("/")[0], output_format=output_format) == counts(0, 0)
        output = part.directory / "output"
        assert output.exists() == (output_format in ("jsonl", "csv"))
        assert not output.exists() or output.read_bytes() == b""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "a,b\n"),
        ("p.csv", '\ufeffa,"b"'),
        ("p.csv", "a,b\r\n\n"),
        ("p.csv.gz", gzip.compress(b"a,b\n", mtime=0)),
        ("p.csv.bz2", bz2.compress(b"a,b\n")),
        ("parts/1.csv", "a,b\n"),
    ],
)
def test_a_header_alone_is_a_view_without_rows(part: Part, name: str, content: str | bytes) -> None:
    part.put(name, content)
    name, query = name.split("/")[0], "SELECT b, a::INT AS n FROM input"
    assert part.query(query, name, output_format="parquet") == counts(0, 0)
    table = pyarrow.parquet.read_table(part.directory / "output")
    assert (table.num_rows, table.schema.names, str(table.schema.types[1])) == (0, ["b", "n"], "int32")
    assert part.query(query, name, output_format="csv") == counts(0, 0)
    assert (part.directory / "output").read_text() == "b,n\n"
    assert part.rows(query, name) == []
    assert part.rows("SELECT count(*) AS n FROM input", name) == [{"n": 0}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("blank", [0, 2])
def test_the_place_of_a_bad_line_is_exact(part: Part, end: str, header: bool, blank: int) -> None:
    lines = ["a,b", '1,"x' + end + 'y"', "2", "3,x,x", "4,x", "5"]
    text = (end + end * blank).join(lines) + end
    part.put("part.csv", text)

    part.query("SELECT * FROM input", format="csv", options={"csv": {"header": header}})
    assert [line["record"] for line in part.rejects] == [["2"], ["3", "x", "x"], ["5"]]
    places = [text.index(f"{end}{line}{end}") + len(end) + 500 for line in ("2", "3,x,x", "5")]
    assert [line["source"]["byte"] for line in part.rejects] == places
    assert [line["source"]["record"] for line in part.rejects] == [number + (not header) for number in (2, 3, 5)]


def test_the_columns_of_csv_without_a_header_are_those_of_the_whole_input(part: Part) -> None:
    part.put("part.csv", "1,2,3\n4,5\n6\n")
    job = {"format": "csv", "options": {"csv": {"header": False}}, "found": {"column0": "text", "column1": "text"}}
    assert part.rows("SELECT * FROM input", **job) == [{"column0": "4", "column1": "5"}]
    assert [reject["record"] for reject in part.rejects] == [["1", "2", "3"], ["6"]]


def test_what_is_all_rejected_is_counted_though_nothing_can_be_queried(part: Part) -> None:
    part.put("p.jsonl.bz2", bz2.compress(b"{\n[\n"))
    assert part.query("SELECT a FROM input", "p.jsonl.bz2", output_format="parquet") == counts(2, 0, 2)
    assert [line["source"]["record"] for line in part.rejects] == [1, 2]


def test_params_are_values_never_text(part: Part) -> None:
    part.put("part.csv", "a\n1\nx\n")
    params = {"a": "x' OR true --", "n": 7, "names": ["x", "y"], "none": None}
    assert part.query("SELECT a FROM input WHERE a = {params.a}", params=params) == counts(2, 0, filtered=2)
    query = "SELECT {params.n}::INT AS n, $none IS NULL AS none FROM input WHERE a IN (FROM unnest({params.names}));"
    assert part.rows(query, params=params) == [{"n": 7, "none": True}]


@pytest.mark.parametrize(
    ("query", "type", "message"),
    [
        ("SELEC a FROM input", "exception", 'Parser Error: syntax error at or near "SELEC"'),
        ("SELECT missing FROM input", "exception", 'Binder Error: Referenced column "missing" not found'),
        ("SELECT a::INT FROM input", "exception", "Conversion Error: Could not convert string 'x' to INT32"),
        (
            "SELECT {params.n} FROM input",
            "processor_load",
            "the query has {params.n}, but the stage's params have no 'n'",
        ),
        ("SELECT $n FROM input", "processor_load", "the query has $n, but the stage's params have no 'n'"),
        ("SELECT '{params.a}' FROM input", "processor_load", "the query has {params.a} inside quotes"),
        ("DROP VIEW input", "processor_load", "the query must be one SELECT"),
        ("SELECT 1; SELECT 2", "processor_load", "the query must be one SELECT"),
        ("SELECT * FROM '/etc/passwd'", "exception", "Catalog Error: Table with name /etc/passwd does not exist"),
        ("SELECT * FROM read_text('/etc/passwd')", "exception", 'Permission Error: Cannot access file "/etc/passwd"'),
    ],
)
def test_a_query_that_can_not_run_fails_for_good(part: Part, query: str, type: str, message: str) -> None:
    part.put("part.csv", "a\n1\nx\n")
    with pytest.raises(TaskError) as failed:
        part.query(query, params={"a": 1})
    assert failed.value.message.startswith(message)
    assert (failed.value.type, failed.value.retryable) == (type, False)


def test_a_bad_line_of_json_is_rejected_with_its_place(part: Part) -> None:
    part.put("p.jsonl", '{"a": 1}\n\n{"a":\n{"a": 3}\n')
    assert part.query("SELECT a FROM input", "p.jsonl") == counts(3, 2, 1)
    (reject,) = part.rejects
    assert reject["source"] == {"uri": "s3://b/whole", "byte": 510, "record": 2}
    assert (reject["reason"], reject["record"]) == ("not JSON: Expecting value at character 6", '{"a":')


def test_compaction_of_many_outputs_to_one_parquet_file(part: Part) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"n": [1, 2]}), part.put("parts/0.parquet", ""))
    pyarrow.parquet.write_table(pyarrow.table({"t": ["x"], "n": [2.5]}), part.put("parts/1.parquet", ""))
    pyarrow.parquet.write_table(
        pyarrow.table({"n": range(2_100_000)}), part.put("parts/2.parquet", ""), row_group_size=10_000
    )
    assert part.query("SELECT * FROM input", "parts", output_format="compact") == counts(2_100_003, 2_100_003)
    file = pyarrow.parquet.ParquetFile(part.directory / "output")
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == [("n", "double"), ("t", "string")]
    assert 3 <= file.num_row_groups <= 4
    numbers = file.read(columns=["n"])["n"].to_pylist()
    assert numbers == [1, 2, 2.5, *range(2_100_000)]


@pytest.mark.parametrize(
    ("query", "checks"),
    [
        ("SELECT * FROM input", 0),
        ("SELECT b FROM input WHERE a <> '1' ORDER BY b", 0),
        ("SELECT a, count(*) FROM input GROUP BY a", 0),
        ("SELECT * FROM input LIMIT 1", 1),
        ("SELECT * FROM input WHERE 1 = 0", 1),
        ("SELECT a FROM input UNION ALL (SELECT b FROM input LIMIT 1)", 1),
        ("SELECT i.a FROM input AS i JOIN (SELECT '1' AS a WHERE random() > 2) USING (a)", 1),
    ],
)
def test_the_input_is_checked_unless_all_of_it_is_read(part: Part, query: str, checks: int) -> None:
    part.put("part.csv", 'a,b\n1,"x, y"\n2,z\n')

    part.query(query, format="csv")

    assert part.checks == checks


def test_a_torn_record_is_never_missed(part: Part) -> None:
    """Wherever quotes, line ends and delimiters stand: if a quote is left open, DuckDB sees it, or there is a check."""
    draw = random.Random(7)
    queries = ("SELECT * FROM input", "SELECT b FROM input", "SELECT count(*) AS n FROM input WHERE a <> 'a'")
    seen = missed = 0
    for _ in range(400):
        marks = ['"', '"', '"', ",", "\n", "\r\n", "a", "bc", " ", "\\"]
        text = "a,b\n" + "".join(draw.choice(marks) for _ in range(draw.randint(1, 30)))
        if CsvDialect().left_open(text.encode()) is None:
            continue
        part.put("part.csv", text)
        part.checks = 0
        try:
            part.query(draw.choice(queries), format="csv")
        except TaskError:
            assert part.checks
        seen += 1
        missed += part.checks == 0
    assert seen > 100
    assert missed == 0
