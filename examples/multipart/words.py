"""Word count over many small texts: `count` maps, `add` reduces, on as many levels as there are."""

import json
import re
from collections import Counter
from pathlib import Path

_WORD = re.compile(r"[^\W\d_]+")


def count(input: Path, output: Path) -> dict[str, int]:
    """The words of the texts in a directory, and how often each occurs."""
    counts: Counter[str] = Counter()
    texts = sorted(input.iterdir())
    for text in texts:
        counts.update(_WORD.findall(text.read_text().lower()))
    _write(counts, output)
    return {"texts": len(texts), "words": counts.total()}


def add(input: Path, output: Path) -> None:
    """The sums of counts, which a further `add` can add up again."""
    counts: Counter[str] = Counter()
    for part in input.iterdir():
        with part.open() as lines:
            counts.update({line["word"]: line["count"] for line in map(json.loads, lines)})
    _write(counts, output)


def _write(counts: Counter[str], output: Path) -> None:
    """The most frequent first, as JSON lines."""
    with output.open("w") as file:
        for word, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            file.write(json.dumps({"word": word, "count": number}, ensure_ascii=False) + "\n")
