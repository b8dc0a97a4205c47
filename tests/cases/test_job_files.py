"""Job files: what is written is what is meant."""

import json

import yaml

from tests.cases.conftest import DATA, CaseGrid


def test_yaml_means_something_else(grid: CaseGrid) -> None:
    grid.push()
    case = "yaml-means-something-else/job.yaml"
    ended = grid.run_file(case)
    typed = yaml.load((DATA / case).read_text(), yaml.BaseLoader)["input"]["items"]  # all scalars as they are typed
    values = [json.loads(line) if line[:1] in '"{[' else line for line in ended.lines()]
    assert values == [value if value != "~" else "null" for value in typed]
    assert ended.job["labels"] == {"country": "NO"}
