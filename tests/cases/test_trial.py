"""A task of the grid, or a processor, runs here: with its input, its code and its environment, in seconds."""

import json
import time
from pathlib import Path

import pytest

from piecework.errors import ApiError, NotFound, TransferError
from piecework.watch import wait_for_job
from tests.cases.conftest import CaseGrid


def test_a_failed_task_is_tried_here_until_it_is_fixed(grid: CaseGrid, tmp_path: Path) -> None:
    script = (
        "echo reading $PIECEWORK_INPUT_FILENAME in $PIECEWORK_STAGE_NAME; grep -q WORD {input} && cp {input} {output}"
    )
    broken = {"command": ["sh", "-c", script.replace("WORD", "absent")], "output": "{input.stem}.out"}
    grid.client.register_processor("trial-find", broken)
    prefix = grid.put({"a/one.txt": "here", "b/two.txt": "also here"})
    stage = {"processor": "trial-find", "retry": {"max_attempts": 1}, "name": "find"}
    job_id = grid.run({"type": "objects", "prefix": prefix}, stage).job["job_id"]
    trying = ("try", "--job", job_id, "--task", "0/1")
    said = grid.command(*trying, "--out", str(tmp_path / "first"), fails=True)
    assert "reading two.txt in find" in said and "failed after" in said and "exit_code: exit code 1" in said

    fixed = {"command": ["sh", "-c", script.replace("WORD", "here")], "output": "{input.stem}.out"}
    grid.client.register_processor("trial-find", fixed)
    answer = json.loads(grid.command(*trying, "trial-find", "--out", str(tmp_path / "second"), "--json"))
    assert answer["outcome"] == "succeeded"
    assert (tmp_path / "second" / "named" / "two.out").read_text() == "also here"
    assert (tmp_path / "second" / "log.txt").read_text() == "reading two.txt in find\n"
    assert grid.client.get_task(job_id, 0, 1)["attempt"] == 1, "the grid learns nothing of it"


def test_functions_with_their_package_and_declared_inputs_are_tried(grid: CaseGrid, tmp_path: Path) -> None:
    code = tmp_path / "pkg"
    (code / "processors").mkdir(parents=True)
    (code / "trials.py").write_text(
        "import os\n"
        "def price(input, output, fees, rate):\n"
        "    fee = float(fees.read_text())\n"
        "    print('fee', fee)\n"
        "    output.write_text(str(float(input.read_text()) * rate + fee) + os.environ['PIECEWORK_INPUT_STEM'])\n"
    )
    fees = grid.put({"fees.txt": "0.5"})
    (code / "processors" / "trial-price.yaml").write_text(
        f"callable: trials:price\noutput: out.txt\ninputs: {{fees: {fees}fees.txt}}\n"
    )
    grid.command("processors", "push", str(code))
    prefix = grid.put({"x.txt": "2"})
    stage = {"processor": "trial-price", "params": {"rate": 3}}
    ended = grid.run({"type": "objects", "prefix": prefix}, "case-copy", stage)
    assert ended.lines() == ["6.5x"]
    out = tmp_path / "out"
    said = grid.command("try", "--job", ended.job["job_id"], "--task", "1/0", "--out", str(out))
    assert str(out / "out.txt") in said
    assert (out / "out.txt").read_text() == "6.5x"
    ended = grid.run({"type": "objects", "prefix": prefix}, stage, "case-copy")
    grid.command("try", "--job", ended.job["job_id"], "--task", "0/0", "--out", str(tmp_path / "interim"))
    assert (out / "log.txt").read_text() == (tmp_path / "interim" / "log.txt").read_text() == "fee 0.5\n"


@pytest.mark.parametrize(
    ("input", "processor", "lines"),
    [
        ({"type": "lines", "format": "csv", "parts": 3}, "trial-sql", ['{"n":2}']),
        ({"type": "objects", "objects_per_task": 2}, "trial-count", ["2"]),
    ],
)
def test_parts_and_groups_are_fetched_by_links(
    grid: CaseGrid, tmp_path: Path, input: dict[str, str], processor: str, lines: list[str]
) -> None:
    grid.client.register_processor("trial-sql", {"sql": "SELECT CAST(n AS INTEGER) AS n FROM input"})
    grid.client.register_processor(
        "trial-count", {"command": ["sh", "-c", "ls {input} | wc -l | tr -d ' ' > {output}"]}
    )
    prefix = grid.put({"a.csv": "n\n1\n2\n3\n", "b.csv": "n\n4\n"})
    of = {"uri": f"{prefix}a.csv"} if input["type"] == "lines" else {"prefix": prefix}
    job_id = grid.run(input | of, processor).job["job_id"]
    index = 1 if input["type"] == "lines" else 0
    out = tmp_path / "out"
    grid.command("try", "--job", job_id, "--task", f"0/{index}", "--out", str(out))
    [made] = [path for path in out.iterdir() if path.name != "log.txt"]
    assert made.read_text().split() == lines


def test_what_can_not_be_tried_says_why(grid: CaseGrid, tmp_path: Path) -> None:
    job_id = grid.run({"type": "objects", "prefix": grid.put({"a": "1"})}, "case-copy").job["job_id"]
    with pytest.raises(ApiError, match="no such processor"):
        grid.client.get_task_trial(job_id, 0, 0, processor="nobody")
    with pytest.raises(ApiError, match="there is no task 0/7"):
        grid.client.get_task_trial(job_id, 0, 7)
    said = grid.command("try", "--job", job_id, "--task", "x", fails=True)
    assert "is not STAGE/INDEX" in said
    (tmp_path / "full").write_text("")
    said = grid.command("try", "--job", job_id, "--task", "0/0", "--out", str(tmp_path), fails=True)
    assert "is not empty" in said


def test_the_log_of_a_running_task_is_followed(grid: CaseGrid) -> None:
    grid.client.register_processor("trial-endless", {"command": ["sh", "-c", "echo started; exec sleep 600"]})
    job_id = grid.submit({"type": "objects", "prefix": grid.put({"a": "1"})}, "trial-endless")
    read = ""
    deadline = time.monotonic() + 60
    while read != "started\n":
        assert time.monotonic() < deadline, read
        time.sleep(0.5)
        try:
            log = grid.client.get_task_log(job_id, 0, 0, live=True)
            assert log["running"] is True
            read = grid.client.read_object(log["url"]).decode()
        except (NotFound, TransferError):
            continue
    grid.client.cancel_job(job_id)
    wait_for_job(grid.client, job_id)
    grid.command("logs", job_id, "0", "0", "--follow")


PRICES = '{"sku": "a", "net": 2}\n{"sku": "b", "net": 3}\n'


@pytest.mark.parametrize(
    ("spec", "given", "made"),
    [
        ({"command": ["sh", "-c", "cp {input} {output}"], "output": "{input.stem}.out"}, PRICES, PRICES),
        ({"callable": "local:copy", "output": "copy.txt"}, PRICES, PRICES),
        ({"records": "local:tax", "output": "gross.jsonl"}, PRICES, '{"sku":"b","net":6}\n'),
        ({"sql": "SELECT sum(net) * {params.times} AS net FROM input", "output": "sum.jsonl"}, PRICES, '{"net":10}\n'),
        ({"function": "local:double"}, '{"net": 4}', "8"),
    ],
)
def test_a_processor_of_each_kind_is_tried_on_a_file_without_a_job(
    grid: CaseGrid, tmp_path: Path, spec: dict[str, object], given: str, made: str
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "local.py").write_text(
        "def copy(input, output, times): output.write_bytes(input.read_bytes())\n"
        "def tax(record, times): return {**record, 'net': record['net'] * times} if record['net'] > 2 else None\n"
        "def double(item, times): return item['net'] * times\n"
    )
    (code / "processor.yaml").write_text(json.dumps({"name": "trial-local", **spec}))
    file, out = tmp_path / "prices.jsonl", tmp_path / "out"
    file.write_text(given)
    trying = ("--input", str(file), "--param", "times=2", "--json")
    jobs_before = len(list(grid.client.list_jobs()))

    answer = json.loads(
        grid.command("try", "--file", str(code / "processor.yaml"), *trying, "--out", str(out / "unregistered"))
    )
    assert answer["outcome"] == "succeeded", answer
    grid.command("processors", "push", str(code))
    again = json.loads(grid.command("try", "trial-local", *trying, "--out", str(out / "registered")))
    assert again["outcome"] == "succeeded", again

    for ended, directory in ((answer, out / "unregistered"), (again, out / "registered")):
        files = [path for path in directory.rglob("*") if path.is_file() and path.name != "log.txt"]
        assert [path.read_text() for path in files] == ([] if "function" in spec else [made])
        assert "function" not in spec or json.dumps(ended["output"]["value"]) == made
    assert len(list(grid.client.list_jobs())) == jobs_before, "the grid learns nothing of it"


def test_a_processor_is_tried_with_what_it_declares_and_with_secrets_of_this_machine(
    grid: CaseGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fees = grid.put({"fees.txt": "0.5"})
    script = "cat {inputs.fees} {input}; echo; echo $TOKEN is $PLACE; cat {inputs.rates} > {output}"
    spec = {
        "command": ["sh", "-c", script],
        "inputs": {"fees": f"{fees}fees.txt", "rates": None},
        "secrets": {"TOKEN": "env:TRIAL_TOKEN"},
        "environment": {"PLACE": "here"},
    }
    grid.client.register_processor("trial-declared", spec)
    file, rates = tmp_path / "in.txt", tmp_path / "rates.txt"
    file.write_text("input")
    rates.write_text("7")
    trying = ("try", "trial-declared@1", "--input", str(file), "--out", str(tmp_path / "out"))
    said = grid.command(*trying, "--stage-input", f"rates={rates}", fails=True)
    assert "set the missing variables TOKEN" in said
    monkeypatch.setenv("TOKEN", "open-sesame-open")
    said = grid.command(*trying, fails=True)
    assert "the processor needs the input 'rates'" in said
    said = grid.command(*trying, "--stage-input", f"rates={rates}")
    assert said.startswith("0.5input\n*** is here\n") and "open-sesame" not in said
    assert (tmp_path / "out" / "output").read_text() == "7"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["trial-said"], "give the processor one input: --input FILE or --item JSON"),
        (["--item", "1"], "name one thing to try"),
        (["trial-said", "--job", "@last"], "a task is named by --job and --task together"),
        (["trial-said", "--input", "nowhere.csv"], "--input: nowhere.csv: there is no such file"),
        (["trial-said", "--item", "{"], "--item:1:2: not JSON"),
        (["trial-said", "--item", "1", "--param", "rat=2"], "it can't be run here: params: {'rat': 2}: "),
        (["trial-nobody", "--item", "1"], "there is no processor trial-nobody"),
        (["trial-said@1", "--item", "1", "--param", "rate=0"], "failed after"),
    ],
)
def test_what_is_wrong_with_a_processor_that_is_tried_is_said_in_a_line(
    grid: CaseGrid, tmp_path: Path, arguments: list[str], error: str
) -> None:
    spec = {"command": ["sh", "-c", "exit $1", "sh", "4{params.rate}"], "output_required": False}
    grid.client.register_processor("trial-said", spec)
    if "@last" in arguments:
        grid.submit({"type": "objects", "prefix": grid.put({"a": "1"})}, "case-copy")
    said = grid.command("try", *arguments, "--out", str(tmp_path / "out"), fails=True)
    assert error in said and len(said.strip().splitlines()) == 1
