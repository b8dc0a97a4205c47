"""A Python developer ships a package, finds out why it fails, tries the fix here, and runs only what failed with it."""

from tests.cases.users.conftest import Person

CODE = """import csv, json

def sums(input, output):
    with open(input) as lines:
        rows = list(csv.DictReader(lines))
    print("rows", len(rows))
    total = sum(float(row["FIELD"]) for row in rows)
    output.write_text(json.dumps({"total": total}) + "\\n")
"""
PROCESSOR = "callable: sales.sums:sums\noutput: '{input.stem}.json'\n"


def code(field: str) -> dict[str, str]:
    return {
        "code/sales/__init__.py": "",
        "code/sales/sums.py": CODE.replace("FIELD", field),
        "code/processors/dev-sums.yaml": PROCESSOR,
    }


def test_a_bug_is_found_tried_here_fixed_and_only_what_failed_runs_again(person: Person) -> None:
    person.has({**code("amout"), "sales/north.csv": "amount\n1\n2\n", "sales/south.csv": "amout,amount\n3,3\n"})
    person.types("piecework processors push code")
    seen = person.types(
        "piecework submit --name sums --input sales --stage dev-sums --max-attempts 1 --tolerated-failures 1 --watch"
    )
    assert "1 task failed and was tolerated" in seen

    log = person.types("piecework logs sums@last")
    assert "sales/north.csv" in log and "KeyError: 'amout'" in log and "rows 2" in log and "line 7" in log

    person.has(code("amount"))
    assert person.types("piecework processors push code") == "dev-sums@2\n"
    tried = person.types("piecework try dev-sums --job sums@last --task stage-0/0 --out tried")
    assert "rows 2" in tried and "succeeded after" in tried
    assert (person.home / "tried" / "named" / "north.json").read_text() == '{"total": 3.0}\n'
    person.types("piecework retry sums@last --latest")
    person.types("piecework wait sums@last")
    versions = person.types("piecework tasks sums@last --json")
    assert versions.count("dev-sums@2") == 1 and versions.count("dev-sums@1") == 1
    assert person.steps == 8


def test_what_can_be_known_at_once_is_refused_at_once(person: Person) -> None:
    person.has(
        {
            "hashless/requirements.txt": "pandas\n",
            "hashless/processor.yaml": "callable: sums:sums\n",
            "hashless/sums.py": "",
            "in/a.txt": "",
            "job.yaml": "input: {type: objects, prefix: in}\n"
            "stages: [{processor: dev-sums, tolerated_failures: 10pct}]\n",
        }
    )
    seen = person.types("piecework processors push hashless", exit_code=2)
    assert "hashless/requirements.txt: 'pandas' has no hash" in seen
    seen = person.types("piecework processors register dev-z --sql 'SELEC * FROM input'", exit_code=2)
    assert "sql: DuckDB can't read this" in seen
    seen = person.types("piecework processors register dev-x --command 'sort {input} | uniq > {output}'", exit_code=2)
    assert "commands run without a shell, so '|' would be an argument" in seen
    seen = person.types("piecework submit in", exit_code=2)
    assert "in is a directory, not a file; what a job works on is its --input" in seen
    seen = person.types("piecework submit job.yaml", exit_code=2)
    assert "job.yaml:2:" in seen and "tolerated_failures: write a number" in seen and "uploading" not in seen


def test_a_module_named_without_its_package_says_so(person: Person) -> None:
    person.has(
        {
            "flat/aggregate.py": "from .fees import FEE\n",
            "flat/fees.py": "FEE = 1\n",
            "flat/processor.yaml": "name: dev-flat\ncallable: aggregate:part\n",
        }
    )
    person.types("piecework processors push flat")
    seen = person.types("piecework submit --count 1 --stage dev-flat --max-attempts 1 --watch", exit_code=1)
    assert "name its package, too, such as sales.aggregate:part" in seen
