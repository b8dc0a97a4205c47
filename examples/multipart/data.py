"""The raw data: `python examples/multipart/data.py DIR` writes texts/, thousands of small texts, from a fixed seed.

The array jobs and the sweep need no data: they are told apart by their index and their item.
"""

import argparse
from itertools import accumulate
from pathlib import Path
from random import Random

SEED = 2026
SYLLABLES = ["ba", "de", "fi", "go", "lu", "mä", "nö", "rü", "sa", "te", "vi", "zo"]


def write(directory: Path, files: int) -> None:
    """Texts of some hundred words, whose frequencies fall off as in a natural language (Zipf)."""
    draw = Random(SEED)
    words = list(dict.fromkeys("".join(draw.choices(SYLLABLES, k=draw.randint(1, 5))) for _ in range(6000)))
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    size = 0
    for number in range(files):
        folder = directory / "texts" / f"{number % 100:02}"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [_line(draw, words, weights) for _ in range(draw.randint(5, 30))]
        size += (folder / f"{number:05}.txt").write_text("\n".join(lines) + "\n")
    print(f"{files:,} texts, {size / 1e6:.1f} million characters")


def _line(draw: Random, words: list[str], weights: list[float]) -> str:
    drawn = draw.choices(words, cum_weights=weights, k=draw.randint(5, 20))
    marks = draw.choices(["", ",", ";", " 7", " —"], weights=[30, 4, 1, 1, 1], k=len(drawn))
    return " ".join(map("".join, zip(drawn, marks, strict=True))).capitalize() + "."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--files", type=int, default=3000)
    arguments = parser.parse_args()
    write(arguments.directory, arguments.files)
