"""A scientist has a function in a notebook and wants its values for all parameters, from the whole grid."""

import os
import subprocess
import sys

from tests.cases.users.conftest import Person

SWEEP = """
from piecework import Client
with Client() as client, client.executor(ship="pickle") as grid:
    print(sum(grid.map(lambda x: x * x, range(9))))
"""


def test_a_sweep_is_three_lines(person: Person) -> None:
    ran = subprocess.run(
        [sys.executable, "-"],  # as in a notebook, the function is in no module
        input=SWEEP,
        cwd=person.home,
        env={**os.environ, **person.environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == "204\n", ran.stderr
    assert len(SWEEP.strip().splitlines()) == 3
