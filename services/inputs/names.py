"""The names of columns: in records none is empty or given twice; in SQL, moreover, case does not distinguish them."""

from collections import Counter
from collections.abc import Sequence
from itertools import count


def named(names: Sequence[str]) -> list[str]:
    """The names, with `columnN` for each empty one, where N is its position from 0.

    Raises ValueError (`names the column 'id' twice`): a record is a dict, which can't hold both.
    """
    whole = [name or f"column{position}" for position, name in enumerate(names)]
    times = Counter(whole)
    if len(times) < len(whole):
        name = next(name for name in whole if times[name] > 1)
        raise ValueError(f"names the column {name!r} twice" + (", counting one without a name" if "" in names else ""))
    return whole


def unique_names(names: Sequence[str]) -> list[str]:
    """The names for SQL, which ignores the case of ASCII letters: `id`, `Id`, `ID` become `id`, `Id_1`, `ID_2`.

    The first of such names stays as it is, and none gets a name that another column has.
    """
    taken, used, unique = {_folded(name) for name in names}, set[bytes](), list[str]()
    for name in names:
        if _folded(name) in used:
            name = next(new for number in count(1) if _folded(new := f"{name}_{number}") not in taken)
            taken.add(_folded(name))
        used.add(_folded(name))
        unique.append(name)
    return unique


def _folded(name: str) -> bytes:
    return name.encode(errors="surrogatepass").lower()  # lower() of bytes changes ASCII letters only, as DuckDB does
