"""The grids that a user knows by name, in a file of their home that `piecework context` and `piecework login` write."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from piecework.errors import InputError


class Context(TypedDict, total=False):
    """Where the services of a grid are, and the key."""

    api_url: str
    stats_url: str
    api_key: str


FIELDS = tuple(Context.__annotations__)


def path_of_contexts() -> Path:
    """`piecework/config.json` where the user's configuration is (https://specifications.freedesktop.org/basedir-spec/)."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        # The specification has a relative path ignored.
        return (home if home.is_absolute() else Path.home() / ".config") / "piecework" / "config.json"
    except RuntimeError:  # a user without a home
        return Path("/nonexistent/piecework/config.json")


@dataclass
class Contexts:
    """The file's content."""

    path: Path = field(default_factory=path_of_contexts)
    current: str | None = None
    named: dict[str, Context] = field(default_factory=dict)

    @classmethod
    def read(cls) -> "Contexts":
        """None of them if there is no file. Raises InputError."""
        path = path_of_contexts()
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}; fix or remove it") from error
        if not isinstance(content, dict) or not _well_formed(content.get("contexts")):
            raise InputError(
                f'{path}: must be {{"current": "…", "contexts": {{"…": {{"api_url": "…"}}}}}}; fix or remove it'
            )
        return cls(path, content.get("current"), content["contexts"])

    def get(self, name: str) -> Context:
        """Raises InputError."""
        if name not in self.named:
            there_are = f"there are {', '.join(self.named)}" if self.named else "there are none"
            raise InputError(f"there is no context {name!r}; {there_are} (piecework context add NAME URL)")
        return self.named[name]

    def write(self) -> None:
        """Replace the file at once; nobody but its owner can read it, since it holds keys. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"current": self.current, "contexts": self.named}, file, indent=2)
            file.write("\n")
        new.replace(self.path)


def _well_formed(contexts: Any) -> bool:
    return isinstance(contexts, dict) and all(
        isinstance(context, dict)
        and isinstance(context.get("api_url"), str)
        and all(isinstance(context.get(name, ""), str) for name in FIELDS)
        for context in contexts.values()
    )
