"""Objects that programs leave beside data: markers of commits, checksums, logs of tables, litter of desktops.

Hadoop's readers pass over every name that begins with `_` or `.`, but that would also leave out data of people who like
such names. So these are the names that are known, each for a part of the key between slashes.
"""

import re
from collections.abc import Sequence
from fnmatch import translate

_OBJECTS = (
    *(
        "_SUCCESS",
        "_FAILURE",
        "_committed_*",
        "_started_*",
        "_metadata",
        "_common_metadata",
    ),  # Hadoop, Spark, Databricks
    *("*.crc", "*_$folder$", "*._COPYING_"),  # Hadoop's checksums, its folders in S3, and copies that are under way
    *("._*", ".DS_Store", "[Tt]humbs.db", "[Dd]esktop.ini"),  # macOS and Windows
)
_FOLDERS = (
    *("_temporary", "_logs", "_spark_metadata", ".spark-staging*", ".hive-staging*", "_impala_insert_staging"),
    *("_delta_log", "_change_data", ".hoodie"),  # what tables of Delta Lake and Hudi are made of, beside their data
    *("__MACOSX", ".ipynb_checkpoints"),
)
_OBJECT, _FOLDER = (re.compile("|".join(map(translate, globs))) for globs in (_OBJECTS, _FOLDERS))


def is_marker(name: str) -> bool:
    """Whether the object is a marker; `name` is its key, or what follows the prefix."""
    *folders, last = name.split("/")
    return _OBJECT.match(last) is not None or any(map(_FOLDER.match, folders))


def naming_markers(globs: str | Sequence[str]) -> list[str]:
    """Those of the globs that are about markers, as `_SUCCESS`, `*.crc` and `.*` are: what they match is wanted."""
    listed = [globs] if isinstance(globs, str) else globs
    return [glob for glob in listed if is_marker(glob) or any(part[:1] in ("_", ".") for part in glob.split("/"))]
