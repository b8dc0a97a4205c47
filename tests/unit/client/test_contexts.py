"""The grids that a user knows: `piecework context`, `login` and `logout`, and which of them is meant."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from piecework import Client, InputError
from piecework.cli import app
from piecework.config import API_URL, STATS_URL, Config, load_config
from piecework.contexts import path_of_contexts
from tests.unit.client.answers import job_summary
from tests.unit.client.conftest import KEY, Service, answer, problem
from tests.unit.client.test_commands import API_KEY, page
from tests.unit.client.test_config import write_profile


def piecework(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=input, catch_exceptions=False)


@pytest.fixture
def prod(service: Service) -> Service:
    """A grid that takes a key, and has a job."""
    service.on("GET", "/v1/me", answer(API_KEY))
    service.on("GET", "/v1/jobs", answer(page(job_summary())))
    return service


def test_login_stores_a_key_that_the_grid_takes_for_its_owner_alone(prod: Service) -> None:
    result = piecework("login", prod.url, "--context", "prod", input=f"{KEY}\n")
    assert (result.exit_code, result.stdout) == (0, f"logged in to {prod.url} as anna (submitter)\n")
    assert KEY not in result.stdout + result.stderr
    path = path_of_contexts()
    assert str(path) in result.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert piecework("jobs").exit_code == 0
    assert {asked.headers["authorization"] for asked in prod.asked} == {f"Bearer {KEY}"}


def test_a_key_that_the_grid_refuses_is_not_stored(service: Service) -> None:
    service.on("GET", "/v1/me", problem(401, "this API key is unknown or revoked"))
    result = piecework("login", service.url, input="pw_wrong")
    assert (result.exit_code, result.stdout) == (4, "")
    assert not path_of_contexts().exists()


def test_login_again_replaces_the_key_of_the_current_context(prod: Service) -> None:
    piecework("login", prod.url, "--stats-url", "http://stats:1", "--context", "prod", input="pw_old")
    assert piecework("login", input="pw_new").exit_code == 0
    assert load_config() == Config(prod.url, "http://stats:1", "pw_new")


def test_without_a_name_a_context_is_called_by_its_host(prod: Service) -> None:
    piecework("login", prod.url, input=KEY)
    assert piecework("context", "list", "-o", "name").stdout == "127.0.0.1\n"


def test_the_grid_of_a_context_is_not_replaced_by_another_of_its_host(prod: Service) -> None:
    piecework("--context", "127.0.0.1", "login", "http://127.0.0.1:9", "--stats-url", "http://stats:1", input=KEY)
    piecework("context", "add", "127.0.0.1", "http://127.0.0.1:9", "--stats-url", "http://stats:1")
    refused = piecework("login", prod.url, input=KEY)
    assert refused.exit_code == 2 and "the context 127.0.0.1 is of http://127.0.0.1:9" in refused.stderr
    assert piecework("--context", "127.0.0.1", "login", prod.url, input=KEY).exit_code == 0
    assert load_config().stats_url != "http://stats:1", "it would get the other grid's key"


def test_logout_forgets_the_key_alone(prod: Service) -> None:
    piecework("login", prod.url, input=KEY)
    assert piecework("logout").exit_code == 0
    assert load_config() == Config(prod.url, STATS_URL, None)
    assert KEY not in path_of_contexts().read_text()


def test_contexts_are_added_used_listed_and_removed() -> None:
    assert piecework("context", "add", "prod", "https://prod", "--stats-url", "https://stats").exit_code == 0
    assert piecework("context", "add", "test", "https://test", "--api-key", "pw_test").exit_code == 0
    assert load_config() == Config("https://prod", "https://stats", None)
    assert piecework("context", "use", "test").stdout == "test is the current context\n"
    assert load_config() == Config("https://test", "https://test:8443", "pw_test")
    listed = piecework("context", "list", "--json")
    assert [(one["name"], one["current"], one["key"]) for one in json.loads(listed.stdout)["items"]] == [
        ("prod", False, False),
        ("test", True, True),
    ]
    assert "pw_test" not in listed.stdout
    assert "pw_test" not in piecework("context", "show").stdout
    assert piecework("context", "remove", "test").exit_code == 0
    assert load_config() == Config(API_URL, STATS_URL, None)


def test_a_context_can_be_chosen_for_one_command_and_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prod", "test", "old"):
        piecework("context", "add", name, f"https://{name}")
    monkeypatch.setenv("PIECEWORK_CONTEXT", "test")
    assert load_config().api_url == "https://test"
    assert load_config(context="old").api_url == "https://old"
    monkeypatch.setenv("PIECEWORK_API_URL", "https://environment")
    assert load_config().api_url == "https://environment"
    assert load_config(context="old").api_url == "https://old"
    with Client(context="prod") as client:
        assert client.config.api_url == "https://prod"


def test_what_lies_in_the_directory_comes_before_the_current_context(tmp_path: Path) -> None:
    piecework("context", "add", "prod", "https://prod", "--api-key", "pw_prod")
    write_profile(tmp_path, api_url="http://here", api_key="pw_here")
    assert load_config() == Config("http://here", "http://here:8001", "pw_here")
    assert f"here {tmp_path / '.piecework/client.json'} comes before it" in piecework("context", "use", "prod").stderr
    assert load_config(context="prod") == Config("https://prod", "https://prod:8443", "pw_prod")


def test_a_stored_key_goes_to_no_other_api(tmp_path: Path) -> None:
    piecework("context", "add", "prod", "https://prod", "--api-key", "pw_prod")
    assert load_config(api_url="https://prod/").api_key == "pw_prod"
    assert load_config(api_url="https://elsewhere").api_key is None
    assert load_config(api_url="https://elsewhere", api_key="pw_mine").api_key == "pw_mine"
    piecework("context", "add", "prod", "https://moved")
    assert load_config() == Config("https://moved", "https://moved:8443", None)


def test_an_unknown_context_says_what_there_is() -> None:
    piecework("context", "add", "prod", "https://prod")
    result = piecework("jobs", "--context", "prdo")
    assert result.exit_code == 2
    assert result.stderr == ("error: there is no context 'prdo'; there are prod (piecework context add NAME URL)\n")


@pytest.mark.parametrize("content", ["{", "[]", '{"contexts": {"prod": {}}}'])
def test_a_broken_file_is_named(content: str) -> None:
    path = path_of_contexts()
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(InputError, match=f"{path}.*fix or remove it"):
        load_config()


def test_what_cannot_be_reached_says_where_its_url_comes_from() -> None:
    dead = Service().url
    piecework("context", "add", "prod", dead)
    [line] = piecework("jobs").stderr.splitlines()
    assert line.startswith(f"error: can't reach the API at {dead}: ")
    assert line.endswith(f"The URL: the context prod in {path_of_contexts()}")


def test_where_nothing_is_configured_the_error_says_what_was_looked_for(tmp_path: Path) -> None:
    origin = load_config().origins["api_url"]
    for text in ("PIECEWORK_API_URL", f".piecework/client.json in {tmp_path}", str(path_of_contexts()), "login URL"):
        assert text in origin


def test_a_relative_home_of_configuration_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "config"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert path_of_contexts() == tmp_path / ".config/piecework/config.json"
