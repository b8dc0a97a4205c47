"""Jobs after jobs, as a person submits them, on a grid that runs."""

from tests.cases.conftest import CaseGrid


def test_a_chain_of_jobs_runs_in_order_and_ends_with_what_failed(grid: CaseGrid) -> None:
    def submit(*arguments: str) -> str:
        return grid.command("submit", *arguments).split()[-1]

    for name, command in {"sleep": "sleep 1", "fails": "false", "true": "true"}.items():
        grid.command("processors", "register", f"after-{name}", "--command", command)
    first = submit("--array", "0-4", "--stage", "after-sleep")
    second = submit("--array", "0-4", "--stage", "after-true", "--after", f"{first}:index")
    third = submit("--count", "1", "--stage", "after-fails", "--max-attempts", "1", "--after", second)
    skipped = submit("--count", "1", "--stage", "after-true", "--after", third, "--after-failure", "skip")
    last = submit("--count", "1", "--stage", "after-true", "--after", f"{skipped}:any")

    ended = {name: grid.ended(job_id) for name, job_id in
             {"first": first, "second": second, "third": third, "skipped": skipped, "last": last}.items()}  # fmt: skip
    assert {name: one.state for name, one in ended.items()} == {
        "first": "succeeded", "second": "succeeded", "third": "failed", "skipped": "cancelled", "last": "succeeded",
    }  # fmt: skip
    before, after = ({task["index"]: task for task in ended[name].tasks} for name in ("first", "second"))
    assert all(after[index]["started_at"] >= before[index]["finished_at"] for index in range(5))
    jobs = {name: one.job for name, one in ended.items()}
    assert jobs["third"]["started_at"] >= jobs["second"]["finished_at"] >= jobs["first"]["finished_at"]
    assert jobs["last"]["started_at"] >= jobs["skipped"]["finished_at"]
    assert ended["skipped"].error_code == "skipped"
