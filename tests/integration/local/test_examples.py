"""What every example promises to whoever runs it; and that the checks of two of them find what is wrong."""

import ast
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet
import pytest
import yaml

from deploy.local.examples import EXAMPLES, main, names
from examples.multipart import options, primes, words
from examples.multipart.data import write as write_texts
from examples.transform.data import write_csv, write_parquet
from examples.transform.orders import settle
from services.engine.spec import JobSpec, ProcessorSpec


@pytest.mark.parametrize("name", names())
def test_an_example_has_what_its_run_needs(name: str) -> None:
    example = EXAMPLES / name
    specs = [yaml.safe_load(path.read_text()) for path in example.glob("processors/*.yaml")]
    jobs = [published(yaml.safe_load(path.read_text())) for path in example.glob("job*.yaml")]
    for spec in specs:
        ProcessorSpec.model_validate({field: spec[field] for field in spec.keys() - {"name", "description"}})
    assert jobs and len({job["name"] for job in jobs}) == len(jobs), "each job's results go to a directory of its name"
    for job in jobs:
        JobSpec.model_validate(job)
        used = {step["processor"] for step in [*job["stages"], job.get("merge", {})] if "processor" in step}
        assert used <= {spec["name"] for spec in specs}
    for module in example.rglob("*.py"):
        assert not imported(module) & {"piecework", "services", "deploy"}
    for file in ("README.md", "data.py", "check.py"):
        assert (example / file).is_file()
    assert f"make example-{name}" in (EXAMPLES.parent / "docs/examples/README.md").read_text()


def published(spec: Any) -> Any:
    """A job's specification as it is once its local files are uploaded."""
    if isinstance(spec, list):
        return [published(value) for value in spec]
    if not isinstance(spec, dict):
        return spec
    named = {field for field in spec if field in ("uri", "prefix")}
    inputs = {name: f"s3://b/{uri}" for name, uri in spec.get("inputs", {}).items()}
    uris = {field: f"s3://b/{spec[field]}" for field in named}
    return {field: published(value) for field, value in spec.items()} | uris | ({"inputs": inputs} if inputs else {})


def imported(module: Path) -> set[str]:
    """The packages that a module imports."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return {name.partition(".")[0] for name in plain} | {
        (node.module or "").partition(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)
    }


def refuses(check: Callable[..., str | None], *arguments: Path, file: Path, old: str, new: str) -> None:
    """The check passes as it is, and ends the program with a line about it once one thing in a result is another."""
    check(*arguments)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(SystemExit) as refused:
        check(*arguments)
    assert isinstance(refused.value.code, str)


def test_shares_of_a_sieve_make_the_whole() -> None:
    whole = primes.sieve(0, 1000)
    shares = [primes.share(1000, index, 7) for index in range(7)]
    assert b"".join(primes.sieve(*share) for share in shares) == whole
    found = [number for number in range(1000) if whole[number]]
    assert (len(found), found[:6], found[-1]) == (168, [2, 3, 5, 7, 11, 13], 997)


@pytest.fixture
def check_multipart(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The check of examples/multipart, of small simulations."""
    monkeypatch.syspath_prepend(EXAMPLES / "multipart")
    from examples.multipart import check

    monkeypatch.setattr(check, "PATHS", 2000)
    return check


def test_prices_are_those_of_a_serial_run_and_near_the_closed_form(check_multipart: Any, tmp_path: Path) -> None:
    option, sums = tmp_path / "option.json", tmp_path / "sums"
    option.write_text(json.dumps({"strike": 100, "volatility": 0.2, "years": 1.0}))
    sums.mkdir()
    for number, work in enumerate(options.batches(option, sums, batches=4)):
        (tmp_path / "batch.json").write_text(json.dumps(work))
        options.simulate(tmp_path / "batch.json", sums / f"{number}.json", spot=100, rate=0.03, paths=2000)
    options.price(sums, tmp_path / "prices.csv")
    price = float(next(csv.DictReader((tmp_path / "prices.csv").open()))["price"])
    assert price == pytest.approx(check_multipart.black_scholes(100, 0.2, 1.0), abs=0.5)
    refuses(check_multipart.check_prices, tmp_path, file=tmp_path / "prices.csv", old=str(price), new=f"{price}1")


def test_words_are_counted_on_any_number_of_levels(check_multipart: Any, tmp_path: Path) -> None:
    write_texts(tmp_path, files=40)
    levels = [tmp_path / name for name in ("counts", "sums", "results")]
    for level in levels:
        level.mkdir()
    for number, folder in enumerate(sorted((tmp_path / "texts").iterdir())):
        (levels[0] / f"{number % 3}").mkdir(exist_ok=True)
        words.count(folder, levels[0] / f"{number % 3}" / f"{number:08}.jsonl")
    for group in levels[0].iterdir():
        words.add(group, levels[1] / f"{group.name}.jsonl")
    words.add(levels[1], levels[2] / "words.jsonl")
    refuses(
        check_multipart.check_words,
        tmp_path,
        levels[2],
        file=levels[2] / "words.jsonl",
        old='"count": 1}',
        new='"count": 2}',
    )


def test_the_transforms_by_sql_and_by_python_agree_with_arrow(tmp_path: Path) -> None:
    from examples.transform import check

    data, results = tmp_path / "data", tmp_path / "results"
    write_csv(data / "orders.csv", 0.0002)
    write_parquet(data / "orders.parquet", 0.0002)
    jobs = {
        name: results / f"transform-{name}" for name in ("csv-sql", "csv-records", "parquet-sql", "parquet-records")
    }
    for directory in jobs.values():
        directory.mkdir(parents=True)
    query("settle-sql", data / "orders.csv", jobs["csv-sql"] / "orders.parquet")
    query("revenue-sql", data / "orders.parquet", tmp_path / "part.json")
    query("total-sql", tmp_path / "part.json", jobs["parquet-sql"] / "revenue.csv")
    with (data / "orders.csv").open(newline="") as raw, (jobs["csv-records"] / "orders.csv").open("w") as orders:
        table, rejects = csv.DictWriter(orders, ["order_id", "month", "country", "quantity", "net_cents"]), []
        table.writeheader()
        for record in csv.DictReader(raw):
            try:
                if order := settle(record):
                    table.writerow(order)
            except ValueError as error:
                rejects.append(json.dumps({"reason": str(error)}))
        (jobs["csv-records"] / "rejects.jsonl").write_text("\n".join(rejects))
    records = pyarrow.parquet.ParquetFile(data / "orders.parquet").read().to_pylist()
    settled = [json.dumps(order) for record in records if (order := settle(record))]
    (jobs["parquet-records"] / "orders.jsonl").write_text("\n".join(settled))
    revenue = jobs["parquet-sql"] / "revenue.csv"
    *_, last = next(csv.reader(revenue.read_text().splitlines()[1:]))
    refuses(check.main, data, results, file=revenue, old=f",{last}", new=f",{int(last) + 1}")


def query(processor: str, source: Path, target: Path) -> None:
    """Run an SQL processor of examples/transform on a whole file."""
    spec = yaml.safe_load((EXAMPLES / f"transform/processors/{processor}.yaml").read_text())
    with duckdb.connect() as connection:
        connection.sql(f"CREATE VIEW input AS FROM '{source}'")
        connection.sql(f"COPY ({spec['sql']}) TO '{target}'")


def test_an_unknown_example_is_told_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("flight") == 2
    assert "no example 'flight'; there are: " in capsys.readouterr().err
