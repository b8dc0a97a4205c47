"""docker-compose.yml: nobody's password is known before, and each service has its own way into the database."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from services.engine.logins import LOGINS

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
VARIABLE = re.compile(r"\$\{(PIECEWORK_\w+)(?:(:-|:\?)([^}]*))?\}")


@pytest.fixture
def generated(tmp_path: Path) -> dict[str, str]:
    """The variables of .env, as the script writes them in a copy of the project."""
    (tmp_path / "deploy" / "docker").mkdir(parents=True)
    script = shutil.copy(ROOT / "deploy" / "docker" / "passwords.sh", tmp_path / "deploy" / "docker")
    for _ in range(2):
        subprocess.run(["sh", script], check=True, capture_output=True)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    return dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())


@pytest.fixture
def services(generated: dict[str, str]) -> dict[str, Any]:
    """The services, their variables filled in."""
    ports = {"PIECEWORK_API_PORT": "8000", "PIECEWORK_STATS_PORT": "8001", "PIECEWORK_EMULATOR_PORT": "4566"}
    filled = VARIABLE.sub(lambda found: (generated | ports)[found[1]], COMPOSE)
    return dict(yaml.safe_load(filled)["services"])


def test_without_the_generated_passwords_compose_refuses_in_one_line_that_says_what_to_run() -> None:
    used: dict[str, list[tuple[str, str]]] = {}
    for name, operator, text in VARIABLE.findall(COMPOSE):
        used.setdefault(name, []).append((operator, text))
    for name in ("PIECEWORK_POSTGRES_PASSWORD", "PIECEWORK_API_KEY"):
        assert (":?", "run sh deploy/docker/passwords.sh once, it writes .env") in used[name]
    assert [name for name, uses in used.items() if not name.endswith("_PORT") and (":-" in dict(uses))] == []


@pytest.mark.parametrize("service", LOGINS)
def test_each_service_is_probed_where_it_answers(services: dict[str, Any], service: str) -> None:
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    told = re.search(r"PIECEWORK_HEALTH_PORT=(\d+)", image)
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", services[service]["healthcheck"]["test"][-1])
    assert told is not None and asked is not None
    command = services[service]["command"]
    port = command[command.index("--port") + 1] if "--port" in command else told[1]
    assert (asked[1], asked[2]) == (port, "/readyz" if "--port" in command else "/healthz")


def test_passwords_differ_and_are_long(generated: dict[str, str]) -> None:
    assert len(set(generated.values())) == len(generated) == 7
    assert min(map(len, generated.values())) >= 48


def test_each_service_has_its_own_database_user_and_only_provisioning_the_others(
    services: dict[str, Any], generated: dict[str, str]
) -> None:
    for service, login in LOGINS.items():
        environment = services[service]["environment"]
        url = urlsplit(environment["PIECEWORK_DATABASE_URL"])
        assert (url.username, url.password) == (login, generated[f"PIECEWORK_{service.upper()}_PASSWORD"])
        own = {url.password} | ({generated["PIECEWORK_SECRET_KEY"]} if service in ("api", "scheduler") else set())
        others = set(generated.values()) - own
        assert not [value for value in others if value in json.dumps(environment)], service
    passwords = json.loads(services["provision"]["environment"]["PIECEWORK_PASSWORDS"])
    assert passwords == {login: generated[f"PIECEWORK_{name.upper()}_PASSWORD"] for name, login in LOGINS.items()}
