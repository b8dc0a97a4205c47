"""Where the client finds the services and its key."""

import json
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
    assert load_config(directory=below) == Config("http://near:1", STATS_URL, "near")


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIECEWORK_API_URL", "http://environment:1")
    monkeypatch.setenv("PIECEWORK_API_KEY", "environment")
    assert load_config(api_key="argument") == Config("http://environment:1", STATS_URL, "argument")


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
    assert load_config(api_key="viewer") == Config("http://profile:1", STATS_URL, "viewer")


@pytest.mark.parametrize("content", ["{", "[]", '{"api_url": 3}'])
def test_a_broken_profile_is_named(content: str, tmp_path: Path) -> None:
    write_profile(tmp_path)
    path = tmp_path / ".piecework" / "client.json"
    path.write_text(content)
    with pytest.raises(InputError, match=f"{path}.*fix or remove it"):
        load_config()


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="api_url: 'localhost:8000' is not a URL; write http://"):
        load_config(api_url="localhost:8000")


def test_a_key_that_cannot_be_a_header_is_refused_without_showing_it() -> None:
    with pytest.raises(InputError, match="api_key: ") as refused:
        load_config(api_key="pw_geheim\n")
    assert "geheim" not in str(refused.value)
