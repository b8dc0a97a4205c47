"""An operator is asked why nothing runs, who may do what, and who cleans all this up."""

import os
from collections.abc import Callable

from tests.cases.users.conftest import Person


def test_why_nothing_runs_is_said_by_the_job(person: Person) -> None:
    person.types("piecework processors register op-true --command true")
    person.types("piecework pools put op-gpu --slots 1")
    person.types("piecework submit --name render --count 3 --stage op-true --pool op-gpu")
    seen = person.types("piecework job render@last")
    assert "pool op-gpu has no workers, and no Auto Scaling group to start some" in seen
    assert "piecework pools put op-gpu --group GROUP" in seen
    person.types("piecework cancel render@last")
    person.types("piecework wait render@last", exit_code=7)

    person.types("piecework pools pause op-gpu")
    person.types("piecework submit --name paused --count 1 --stage op-true --pool op-gpu")
    assert "is paused" in person.types("piecework job paused@last")
    person.types("piecework cancel paused@last")
    person.types("piecework wait paused@last", exit_code=7)


def test_people_have_keys_that_control_what_is_theirs(person: Person, colleague: Callable[[str], Person]) -> None:
    key = person.types("piecework keys create ben --role developer -q").strip()
    ben = colleague(key.splitlines()[0])
    assert "principal  ben" in ben.types("piecework whoami")
    ben.types("piecework processors register ben-sleep --command 'sleep 5'")
    person.types("piecework submit --name mine --count 1 --stage ben-sleep")
    assert "belongs to bootstrap" in ben.types("piecework cancel mine@last", exit_code=4)
    assert "needs the role operator" in ben.types("piecework keys list", exit_code=4)
    ben.types("piecework submit --name bens --count 1 --stage ben-sleep")
    ben.types("piecework cancel bens@last")
    assert "ben" in person.types("piecework jobs --name bens -o wide")
    person.types("piecework cancel mine@last")


def test_tasks_see_nothing_of_the_shell_that_started_the_grid(person: Person) -> None:
    assert "PYTEST_VERSION" in os.environ, "which the grid of the tests has inherited"
    person.types("piecework processors register op-env --command env")
    person.types("piecework submit --name env --count 1 --stage op-env --watch")
    seen = person.types("piecework logs env@last 0 0")
    assert "PIECEWORK_JOB_NAME=env" in seen and "PYTEST_VERSION" not in seen


def test_what_is_not_needed_goes_away(person: Person) -> None:
    person.types("piecework processors register op-broken --command false")
    person.types("piecework submit --name rubbish --count 1 --stage op-broken --max-attempts 1 --watch", exit_code=1)
    person.types("piecework delete rubbish@last")
    person.types("piecework retention put rubbish --label kind=rubbish --results 1d")
    assert "rubbish" in person.types("piecework retention list")
    person.types("piecework retention delete rubbish")
