"""Where the client finds the services and its key."""

import json
import re
from pathlib import Path

import pytest

from piecework import InputError
from piecework.config import API_URL, STATS_URL, Config, load_config


def write_profile(directory: Path, **profile: object) -> None:
    (directory / ".piecework").mkdir(parents=True)
    (directory / ".piecework" / "client.json").write_text(json.dumps(profile))


def test_without_anything_the_local_grid_is_meant() -> None:
    assert load_config() == Config(API_URL, STATS_URL, None)


def test_the_nearest_profile_above_is_used(tmp_path: Path) -> None:
    write_profile(tmp_path, api_url="http://far:1", stats_url="http://far:2", api_key="far")
    write_profile(tmp_path / "near", api_url="http://near:1", api_key="near")
    below = tmp_path / "near" / "a" / "b"
    below.mkdir(parents=True)
    assert load_config(directory=below) == Config("http://near:1", "http://near:8001", "near")


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIECEWORK_API_URL", "http://environment:1")
    monkeypatch.setenv("PIECEWORK_API_KEY", "environment")
    assert load_config(api_key="argument") == Config("http://environment:1", "http://environment:8001", "argument")


@pytest.mark.parametrize("name", ["PIECEWORK_API_URL", "PIECEWORK_API_KEY"])
def test_a_profile_never_mixes_with_an_api_or_key_of_the_environment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(tmp_path, api_url="http://profile:1", stats_url="http://profile:2", api_key="profile")
    monkeypatch.setenv(name, "http://environment:1")
    config = load_config()
    assert "profile" not in f"{config.api_url} {config.api_key} {config.stats_url}"


def test_an_argument_can_replace_a_part_of_the_profile(tmp_path: Path) -> None:
    write_profile(tmp_path, api_url="http://profile:1", api_key="operator")
    assert load_config(api_key="viewer") == Config("http://profile:1", "http://profile:8001", "viewer")


@pytest.mark.parametrize(
    ("api_url", "stats_url"),
    [
        ("https://grid.example.org", "https://grid.example.org:8443"),
        ("https://grid.example.org:443/", "https://grid.example.org:8443"),
        ("https://grid.example.org:8000", "https://grid.example.org:8001"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:8001"),
        ("http://[::1]:8000", "http://[::1]:8001"),
    ],
)
def test_a_stats_service_that_nothing_names_is_on_the_host_of_the_api(api_url: str, stats_url: str) -> None:
    config = load_config(api_url=api_url)
    assert config.stats_url == stats_url
    assert config.origins["stats_url"].startswith("the API's host; nothing names another: no --stats-url")
    assert load_config(api_url=api_url, stats_url="http://other:1").stats_url == "http://other:1"


def test_another_api_than_that_of_the_profile_has_another_stats_service(tmp_path: Path) -> None:
    write_profile(tmp_path, api_url="http://profile:1", stats_url="http://profile:2", api_key="operator")
    assert load_config(api_url="http://other:1") == Config("http://other:1", "http://other:8001", None)
    assert load_config(api_url="http://profile:1/").stats_url == "http://profile:2"


@pytest.mark.parametrize("content", ["{", "[]", '{"api_url": 3}'])
def test_a_broken_profile_is_named(content: str, tmp_path: Path) -> None:
    write_profile(tmp_path)
    path = tmp_path / ".piecework" / "client.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"{path}.*fix or remove it"):
        load_config()


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://a:b", "http://[::1", "ftp://a"])
def test_what_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=f"api_url: {re.escape(repr(url))} is not a URL; write http://"):
        load_config(api_url=url)


def test_a_key_that_cannot_be_a_header_is_refused_without_showing_it() -> None:
    with pytest.raises(InputError, match="api_key: ") as refused:
        load_config(api_key="pw_geheim\n")
    assert "geheim" not in str(refused.value)
