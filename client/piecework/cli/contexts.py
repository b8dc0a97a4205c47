"""`piecework context`, `login` and `logout`: which grid is meant, and with which key."""

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from piecework.cli import names
from piecework.cli.session import Session, command, group
from piecework.config import Config, load_config, nearest_profile
from piecework.contexts import Context, Contexts
from piecework.errors import InputError

Name = Annotated[str, typer.Argument(metavar="NAME", autocompletion=names.contexts)]


def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="How you call the grid, such as prod.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="Of its API; of its stats service: --stats-url.")],
) -> None:
    """Add a grid, or change its URLs, and use it if it is the first; `piecework login` then asks for the key."""
    contexts = Contexts.read()
    load_config(api_url=url, stats_url=session.stats_url)  # is it a URL?
    before = contexts.named.get(name, {})
    key = session.api_key or (before.get("api_key") if before.get("api_url") == url else None)
    contexts.named[name] = _context(url, session.stats_url, key)
    contexts.current = contexts.current or name
    contexts.write()
    session.show_done(f"added {name}")


def _context(api_url: str, stats_url: str | None, api_key: str | None) -> Context:
    given: Any = {"api_url": api_url, "stats_url": stats_url, "api_key": api_key}
    kept: Any = {field: value for field, value in given.items() if value is not None}
    return kept  # type: ignore[no-any-return]


def use(session: Session, name: Name) -> None:
    """Mean this grid from now on."""
    contexts = Contexts.read()
    contexts.get(name)
    contexts.current = name
    contexts.write()
    _tell_what_hides(session, name)
    session.show_done(f"{name} is the current context")


def _tell_what_hides(session: Session, name: str) -> None:
    config = load_config()
    if config.context != name:
        where = str(nearest_profile(Path.cwd()) or "") or config.origins["api_url"]
        session.note(f"here {where} comes before it: --context {name} is stronger")


def list_contexts(session: Session) -> None:
    """List the grids that you know."""
    contexts = Contexts.read()
    found = [
        {
            "name": name,
            "current": name == contexts.current,
            "api_url": context["api_url"],
            "stats_url": context.get("stats_url"),
            "key": "api_key" in context,
        }
        for name, context in contexts.named.items()
    ]
    session.show({"items": found, "next_cursor": None}, lambda page: _show_list(session, found))


def _show_list(session: Session, found: list[dict[str, Any]]) -> None:
    from piecework.display import table

    table(
        session.out,
        ["~CONTEXT", "CURRENT", "~API", "~?STATS", "KEY"],
        (
            (
                one["name"],
                "yes" if one["current"] else "",
                one["api_url"],
                one["stats_url"],
                "yes" if one["key"] else "no",
            )
            for one in found
        ),
    )


def show(
    session: Session, name: Annotated[str | None, typer.Argument(metavar="NAME", autocompletion=names.contexts)] = None
) -> None:
    """Show a grid's URLs; without a NAME those that commands use here, and where they come from."""
    config = load_config(session.api_url, session.stats_url, session.api_key, context=name or session.context)
    session.show(_described(config), lambda _: _show(session, config))


def _described(config: Config) -> dict[str, Any]:
    told = {"name": config.context, "api_url": config.api_url, "stats_url": config.stats_url}
    return {**told, "key": config.api_key is not None, "origins": dict(config.origins)}


def _show(session: Session, config: Config) -> None:
    from piecework.display import facts

    facts(
        session.out,
        [
            ("context", config.context),
            ("API", config.api_url),
            ("comes from", config.origins["api_url"]),
            ("stats service", config.stats_url),
            ("comes from", config.origins["stats_url"]),
            ("key", "yes" if config.api_key else "no"),
            ("comes from", config.origins["api_key"] if config.api_key else None),
        ],
    )


def remove(session: Session, name: Name) -> None:
    """Forget a grid and its key; the key itself stays valid."""
    contexts = Contexts.read()
    contexts.get(name)
    del contexts.named[name]
    if contexts.current == name:
        contexts.current = None
    contexts.write()
    session.show_done(f"removed {name}")


def login(
    session: Session,
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="Of the grid's API; without: that of --context, or the current one."),
    ] = None,
) -> None:
    """Store your key of a grid, once the grid has taken it: asks for it, or reads it from standard input.

    The grid becomes the current context. It is called by --context, else by the host of its URL.
    """
    from piecework.client import Client

    contexts = Contexts.read()
    name = session.context or (urlsplit(url).hostname if url else contexts.current)
    if name is None:
        raise InputError("login: there is no current context; give the URL of the grid's API")
    before = contexts.named.get(name, {}) if url else contexts.get(name)
    api_url = url or before["api_url"]
    is_same = before.get("api_url") in (None, api_url)
    if not (is_same or session.context):
        other = before["api_url"]
        raise InputError(f"login: the context {name} is of {other}; name the new one: piecework --context NAME login")
    stats_url = session.stats_url or (before.get("stats_url") if is_same else None)
    key = session.api_key or _ask(api_url)
    with Client(api_url, key, stats_url=stats_url) as client:
        me = client.get_me()
    contexts.named[name] = _context(api_url, stats_url, key)
    contexts.current = name
    contexts.write()
    session.note(f"the key is in {contexts.path}; the context {name} is the current one")
    _tell_what_hides(session, name)
    session.show(me, lambda me: print(f"logged in to {api_url} as {me['principal']} ({me['role']})"))


def _ask(api_url: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(f"API key for {api_url}", hide_input=True, err=True)).strip()
    key = sys.stdin.read().strip()
    if not key:
        raise InputError("login: there is no key on standard input")
    return key


def logout(session: Session) -> None:
    """Forget the key of --context, or of the current context; the key itself stays valid."""
    contexts = Contexts.read()
    name = session.context or contexts.current
    if name is None:
        raise InputError("logout: there is no current context; name one by --context")
    contexts.get(name).pop("api_key", None)
    contexts.write()
    session.show_done(f"the key of {name} is forgotten")


def register(app: typer.Typer) -> None:
    command(app, "login")(login)
    command(app, "logout")(logout)
    contexts = group(app, "contexts", "The grids that you know, and the one that you mean.")
    command(contexts, "list")(list_contexts)
    command(contexts, "add")(add)
    command(contexts, "use")(use)
    command(contexts, "show")(show)
    command(contexts, "remove")(remove)
