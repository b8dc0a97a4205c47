"""The formats that a job may read, one row each. Everything else about a format is in `services/inputs/<folder>`:

    split.py  split, look        cuts an input of that type into parts; what is looked at when a job is submitted
    cut.py    Cutter             cuts what only a reader of every byte can cut, in a task (spec.StreamedObject)
    fetch.py  fetch              puts a part on a node's disk
    read.py   open_reader, STEPS the records of a file for a record function; what the child makes and checks before
    sql.py    show               a file as DuckDB can read it

The registry holds names, so that each process loads only what it needs: API and scheduler `split`, a worker also
`fetch`, its child `read` and `sql`. A child starts in milliseconds, so `read` and `sql` import their libraries late.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

COMPRESSION_OF_SUFFIX = {".gz": "gzip", ".bgz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
UNREAD_COMPRESSIONS = {  # of suffixes; most have no signature, so that only the name tells
    **{".br": "brotli", ".lz4": "lz4", ".z": "compress (.Z)", ".lzma": "lzma", ".lz": "lzip", ".lzo": "lzop"},
    **{".snappy": "snappy", ".sz": "snappy", ".deflate": "deflate", ".zz": "deflate", ".zip": "zip", ".7z": "7-Zip"},
}
_ANY = tuple(COMPRESSION_OF_SUFFIX)


@dataclass(frozen=True, slots=True)
class Format:
    """How the records of a file are written, and the suffixes of such files; parts get the first one.

    `compressions` are the suffixes that may follow, for formats whose files are compressed as a whole.
    """

    name: str
    folder: str
    suffixes: tuple[str, ...]
    compressions: tuple[str, ...] = ()
    text_fields: bool = False  # the fields of a record are text, whatever they stand for

    @property
    def suffix(self) -> str:
        return self.suffixes[0]


_ROWS = (
    Format("jsonl", "lines", (".jsonl", ".ndjson"), _ANY),
    Format("csv", "lines", (".csv",), _ANY, text_fields=True),
    Format("tsv", "lines", (".tsv",), _ANY, text_fields=True),
    Format("json", "lines", (".json",), _ANY),
    Format("text", "lines", (".txt", ".log"), _ANY),
    Format("fixed", "lines", (".dat",), _ANY),
    Format("parquet", "parquet", (".parquet",)),
    Format("arrow", "arrow", (".arrow", ".feather")),
    Format("avro", "avro", (".avro",)),
    Format("orc", "orc", (".orc",)),
    Format("xml", "xml", (".xml",), text_fields=True),
)
FORMATS = {row.name: row for row in _ROWS}
FOLDERS = tuple(dict.fromkeys(row.folder for row in _ROWS))
# Each with a folder of its name, which has `split`.
INPUT_TYPES = (*FOLDERS, "objects", "manifest", "items", "range", "stream")

_FORMAT_OF_SUFFIX = {suffix: row for row in _ROWS for suffix in row.suffixes}


def load(folder: str, module: str) -> Any:
    """A module of a format's folder."""
    return import_module(f"services.inputs.{folder}.{module}")


def format_of(name: str) -> Format | None:
    """The format by the name of a file or object, if it is a known one."""
    suffix, compression = _suffixes(name)
    found = _FORMAT_OF_SUFFIX.get(suffix.lower())
    return found if found and (not compression or compression.lower() in found.compressions) else None


def compression_suffix(name: str) -> str:
    """`.gz` of `a.csv.gz`, in lower case; empty if the name has no compression suffix."""
    return _suffixes(name)[1].lower()


def suffix_of(name: str) -> str:
    """The suffix that tells the format of a file or object: `.csv` or `.csv.gz`, or empty."""
    return "".join(_suffixes(name))


def part_suffix(name: str, format: str) -> str:
    """The suffix of a part of such an object: a part is not compressed, whatever the object's name."""
    return _suffixes(name)[0] or FORMATS[format].suffix


def _suffixes(name: str) -> tuple[str, str]:
    """That of the format, and that of the compression."""
    path = PurePosixPath(name)
    if path.suffix.lower() in COMPRESSION_OF_SUFFIX:
        return path.with_suffix("").suffix, path.suffix
    return path.suffix, ""
