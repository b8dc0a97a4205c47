"""Where the services are and which key to use."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from piecework.errors import InputError

API_URL = "http://127.0.0.1:8000"
STATS_URL = "http://127.0.0.1:8001"
PROFILE = Path(".piecework/client.json")

_VARIABLES = {"api_url": "PIECEWORK_API_URL", "stats_url": "PIECEWORK_STATS_URL", "api_key": "PIECEWORK_API_KEY"}


@dataclass(frozen=True, slots=True)
class Config:
    """URLs of the services and the API key."""

    api_url: str = API_URL
    stats_url: str = STATS_URL
    api_key: str | None = None


def load_config(
    api_url: str | None = None, stats_url: str | None = None, api_key: str | None = None, directory: Path | None = None
) -> Config:
    """Arguments first, then the environment, or else the nearest `.piecework/client.json`, then the defaults.

    The file counts only if the environment names neither an API nor a key: a key from the environment never goes to
    an address that a file in the current directory chose. Raises InputError.
    """
    environment = {name: os.environ[variable] for name, variable in _VARIABLES.items() if os.environ.get(variable)}
    chosen = environment
    if "api_url" not in environment and "api_key" not in environment:
        chosen = _read_profile(directory or Path.cwd()) | environment
    arguments = {"api_url": api_url, "stats_url": stats_url, "api_key": api_key}
    config = Config(**(chosen | {name: value for name, value in arguments.items() if value is not None}))
    for name in ("api_url", "stats_url"):
        url = getattr(config, name)
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{name}: {url!r} is not a URL; write http://host:port or https://host")
    if config.api_key is not None and not (config.api_key.isascii() and config.api_key.isprintable()):
        raise InputError("api_key: the key has characters that no key has; copy it again")
    return config


def _read_profile(directory: Path) -> dict[str, str]:
    """The nearest profile, in `directory` or above; {} if there is none."""
    for candidate in (directory, *directory.parents):
        path = candidate / PROFILE
        if path.is_file():
            break
    else:
        return {}
    try:
        profile = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; fix or remove it") from error
    if not isinstance(profile, dict) or not all(isinstance(profile.get(name, ""), str) for name in _VARIABLES):
        raise InputError(f'{path}: must be {{"api_url": "…", "stats_url": "…", "api_key": "…"}}; fix or remove it')
    return {name: profile[name] for name in _VARIABLES if name in profile}
