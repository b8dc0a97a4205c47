"""Names of columns: unnamed ones, equal ones, and those that differ by case only."""

import pytest

from services.inputs.names import named, unique_names


def test_an_unnamed_column_is_named_by_its_position():
    assert named(["", "id", ""]) == ["column0", "id", "column2"]


def test_names_that_differ_by_case_only_are_names_of_their_own():
    assert named(["id", "Id"]) == ["id", "Id"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["id", "value", "value"], "names the column 'value' twice"),
        (["", "column0"], "names the column 'column0' twice, counting one without a name"),
    ],
)
def test_a_name_given_twice_is_refused(names, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        named(names)


def test_sql_tells_columns_apart_by_more_than_case():
    assert unique_names(["id", "Id", "ID", "name"]) == ["id", "Id_1", "ID_2", "name"]


def test_a_new_name_is_never_one_that_another_column_has():
    assert unique_names(["id", "Id", "ID_1"]) == ["id", "Id_2", "ID_1"]


def test_only_ascii_letters_are_equal_in_either_case():
    assert unique_names(["É", "é"]) == ["É", "é"]
