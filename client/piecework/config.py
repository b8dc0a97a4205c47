"""Where the services are and which key to use."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from piecework.contexts import FIELDS, Context, Contexts, path_of_contexts
from piecework.errors import InputError

API_URL = "http://127.0.0.1:8000"
STATS_URL = "http://127.0.0.1:8001"
PROFILE = Path(".piecework/client.json")
CONTEXT = "PIECEWORK_CONTEXT"

VARIABLES = {"api_url": "PIECEWORK_API_URL", "stats_url": "PIECEWORK_STATS_URL", "api_key": "PIECEWORK_API_KEY"}


@dataclass(frozen=True, slots=True)
class Config:
    """URLs of the services and the API key; `origins` says where each comes from, and `context` is its name."""

    api_url: str = API_URL
    stats_url: str = STATS_URL
    api_key: str | None = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, hash=False)
    context: str | None = field(default=None, compare=False)


def load_config(
    api_url: str | None = None,
    stats_url: str | None = None,
    api_key: str | None = None,
    directory: Path | None = None,
    context: str | None = None,
) -> Config:
    """Arguments first; then one of these, the first that there is: the context of that name, the environment, the
    context that PIECEWORK_CONTEXT names, the nearest `.piecework/client.json`, the current context, the defaults.

    They never mix, but for PIECEWORK_STATS_URL: a key from the environment never goes to an address that a file chose,
    and one from a file to no API but that of the file. A stats service that nothing names is on the API's host.
    Raises InputError.
    """
    directory = directory or Path.cwd()
    chosen, origin, name = _choose(directory, context)
    if api_url is not None and origin and api_url.rstrip("/") != chosen.get("api_url", API_URL).rstrip("/"):
        chosen = {}
    environment = {} if context else _environment()
    arguments = {"api_url": api_url, "stats_url": stats_url, "api_key": api_key}
    values: dict[str, Any] = dict(chosen) | environment
    origins = {name: _nothing(name, directory) for name in FIELDS} | dict.fromkeys(chosen, origin)
    origins |= {name: VARIABLES[name] for name in environment}
    for each, value in arguments.items():
        if value is not None:
            values[each], origins[each] = value, f"--{each.replace('_', '-')}"
    _check(values)
    if "stats_url" not in values:
        values["stats_url"] = _stats_beside(values.get("api_url", API_URL))
        origins["stats_url"] = f"the API's host; {origins['stats_url']}"
    return Config(**values, origins=origins, context=name)


def _choose(directory: Path, context: str | None) -> tuple[Context, str, str | None]:
    """What counts beside arguments and the environment, where it is from, and the name of the context that it is."""
    environment = _environment()
    alone = "api_url" in environment or "api_key" in environment
    name = context or (None if alone else os.environ.get(CONTEXT))
    if name is None and alone:
        return {}, "", None
    if name is None and (profile := nearest_profile(directory)):
        return _read_profile(profile), str(profile), None
    contexts = Contexts.read()
    name = name or contexts.current
    if name is None:
        return {}, "", None
    return contexts.get(name), f"the context {name} in {contexts.path}", name


def _environment() -> dict[str, str]:
    return {name: os.environ[variable] for name, variable in VARIABLES.items() if os.environ.get(variable)}


def _nothing(name: str, directory: Path) -> str:
    return (
        f"nothing names another: no --{name.replace('_', '-')}, no {VARIABLES[name]}, no {PROFILE} in {directory} or "
        f"above, and no context in {path_of_contexts()} (piecework login URL)"
    )


def _check(values: Mapping[str, Any]) -> None:
    for name in ("api_url", "stats_url"):
        url = values.get(name)
        if url is not None and not _is_url(url):
            raise InputError(f"{name}: {url!r} is not a URL; write http://host:port or https://host")
    key = values.get("api_key")
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InputError("api_key: the key has characters that no key has; copy it again")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # of a port or an IPv6 address
        return False


def _stats_beside(api_url: str) -> str:
    """Where deployments have the stats service: on the API's host, at 8443 if the API is at 443, else at 8001."""
    parts = urlsplit(api_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    balanced = parts.scheme == "https" and parts.port in (None, 443)
    return f"{parts.scheme}://{host}:{8443 if balanced else 8001}"


def nearest_profile(directory: Path) -> Path | None:
    """The nearest `.piecework/client.json`, in `directory` or above."""
    paths = (candidate / PROFILE for candidate in (directory, *directory.parents))
    return next((path for path in paths if path.is_file()), None)


def _read_profile(path: Path) -> Context:
    try:
        profile = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; fix or remove it") from error
    if not isinstance(profile, dict) or not all(isinstance(profile.get(name, ""), str) for name in FIELDS):
        raise InputError(f'{path}: must be {{"api_url": "…", "stats_url": "…", "api_key": "…"}}; fix or remove it')
    found: Any = {name: profile[name] for name in FIELDS if name in profile}
    return found  # type: ignore[no-any-return]
