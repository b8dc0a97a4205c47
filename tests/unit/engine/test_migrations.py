"""The history of the schema: what was published stays as it is, and services survive each migration."""

import hashlib
import re
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

import services.engine.migrations
from services.engine.schema import NEEDED_REVISION

MIGRATIONS = Path(services.engine.migrations.__file__).parent
VERSIONS = MIGRATIONS / "versions"

# Of each script that a release has published. Databases have it already: a change of the schema is a new migration.
PUBLISHED = {"0001_initial.sql": "982b7ceb1cdb39bade73ed7076e9f1ffc9bbf714563229a991da04ec63044285"}


def test_a_published_script_stays_as_it_is() -> None:
    found = {name: hashlib.sha256((VERSIONS / name).read_bytes()).hexdigest() for name in PUBLISHED}

    assert found == PUBLISHED


def test_revisions_are_numbers_without_gaps_in_one_line_and_files_are_named_by_them() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())[::-1]

    assert [script.revision for script in scripts] == [f"{n:04}" for n in range(1, len(scripts) + 1)]
    assert [script.down_revision for script in scripts] == [None, *(script.revision for script in scripts[:-1])]
    assert all(Path(script.path).name.startswith(f"{script.revision}_") for script in scripts)
    assert scripts[-1].revision == NEEDED_REVISION


def test_an_index_of_a_table_that_exists_is_built_while_the_services_go_on() -> None:
    """Within a transaction, CREATE INDEX locks out all who write; only a table of the same script has nobody else."""
    for script in sorted(VERSIONS.glob("*.sql")):
        text = re.sub("--.*", "", script.read_text())
        made = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", text))
        indexed = set(re.findall(r"CREATE (?:UNIQUE )?INDEX[^;]*? ON (\w+)", text))
        assert indexed <= made, f"{script.name}: use build_index in a migration of its own for {indexed - made}"
