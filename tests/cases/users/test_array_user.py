"""Somebody moves from Slurm: the scripts stay as they are, and one array waits for another."""

from tests.cases.users.conftest import Person

SCRIPT = """#!/bin/bash
#SBATCH --array=1-3
set -eu
echo "$SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT from $SLURM_ARRAY_TASK_MIN"
"""


def test_scripts_run_as_they_are_one_after_the_other(person: Person) -> None:
    person.has({"first.sh": SCRIPT, "second.sh": SCRIPT})
    first = person.types("piecework submit first.sh --sbatch -q").strip()
    second = person.types(f"piecework submit second.sh --sbatch -q --after {first}:index").strip()
    person.types(f"piecework wait {first} {second}")
    assert person.types(f"piecework logs {second} stage-0 2").strip() == "3 of 3 from 1"
    assert person.steps == 4


def test_a_second_stage_has_the_variables_of_an_array_too(person: Person) -> None:
    show = """"bash -c 'set -u; echo $AWS_BATCH_JOB_ARRAY_SIZE $SLURM_ARRAY_TASK_MAX > {output}'" """
    person.types(f"piecework processors register array-sizes --command {show}")
    person.types("piecework submit --name sizes --count 2 --stage array-sizes --stage array-sizes --watch")
    person.types("piecework results sizes@last --download sizes")
    assert (person.home / "sizes" / "00000001").read_text() == "2 1\n"
    assert person.steps == 3
