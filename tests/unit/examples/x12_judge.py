"""pyx12 knows the implementation guides, and judges whole interchanges by them."""

import io
from functools import cache
from typing import Any
from unittest.mock import patch

import pyx12.map_if
from pyx12 import x12n_document
from pyx12.params import params

_load_map_file = pyx12.map_if.load_map_file


@cache
def _guide(name: str) -> Any:
    """Reading a guide takes ten times as long as judging by it; what pyx12 counts is elsewhere."""
    return _load_map_file(name, params())


def is_valid(text: str) -> bool:
    with patch.object(pyx12.map_if, "load_map_file", lambda name, *_: _guide(name)):
        return bool(x12n_document.x12n_document(params(), io.StringIO(text), None, None))
