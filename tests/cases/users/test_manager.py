"""A manager asks what ran, how well, how long and for how much."""

import json

from tests.cases.users.conftest import Person


def test_history_success_and_costs_are_one_command_each(person: Person) -> None:
    person.types("piecework processors register report --command 'test -d {input}.no'")
    person.types("piecework processors register report-well --command true")
    for name, exit_code in (("report", 1), ("report-well", 0)):
        person.types(
            f"piecework submit --name {name} --count 2 --stage {name} --max-attempts 1 --label team=finance --watch",
            exit_code=exit_code,
        )
    person.steps = 0

    failed = person.types("piecework jobs --label team=finance --since 1d --state failed")
    assert "report " in failed and "report-well" not in failed
    stats = person.types("piecework stats report-well@last")
    assert "2 of 2 succeeded" in stats and "task p95" in stats
    costs = json.loads(person.types("piecework costs --days 1 --by-label team --json"))
    assert "finance" in json.dumps(costs)
    assert person.steps == 3
