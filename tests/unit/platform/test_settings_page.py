"""The page for operators describes settings that there are, each once in its table."""

import re
from collections import Counter
from pathlib import Path

from services.platform.settings import ApiSettings, Settings, WorkerSettings

PAGE = Path(__file__).parents[3] / "docs" / "operations.md"


def test_the_table_of_settings_names_each_once_and_none_that_there_is_not() -> None:
    table = PAGE.read_text().partition("| setting | for | default |")[2].partition("\n\n")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line]
    named = Counter(name.lower() for cell in first_cells for name in re.findall(r"`PIECEWORK_([A-Z0-9_]+)`", cell))

    assert [name for name, times in named.items() if times > 1] == []
    fields = Settings.model_fields | ApiSettings.model_fields | WorkerSettings.model_fields
    assert named.keys() - fields.keys() == set()
