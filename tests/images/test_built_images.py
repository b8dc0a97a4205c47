"""The images of deploy/docker, built from the Dockerfile as it is."""

import json
import subprocess
from pathlib import Path

import pytest

from deploy.images.engine import Engine

ROOT = Path(__file__).parents[2]


def inspect(engine: Engine, image: str) -> dict[str, object]:
    (found,) = json.loads(engine.docker("image", "inspect", image))
    config: dict[str, object] = found["Config"]
    return config


def test_the_images_run_as_a_user_whose_numbers_are_known(engine: Engine, images: dict[str, str]) -> None:
    for image in images.values():
        assert engine.docker("run", "--rm", image, "id").startswith("uid=10001(piecework) gid=10001(piecework)")
    script = "stat -c %u:%g /var/lib/piecework && test -s sbom.cdx.json && test ! -e deploy && cat VERSION"
    said = engine.docker("run", "--rm", images["server"], "sh", "-c", script).split()
    assert said == ["10001:10001", (ROOT / "VERSION").read_text().strip()]


def test_an_image_tells_the_engine_whether_its_service_is_well(engine: Engine, images: dict[str, str]) -> None:
    config = inspect(engine, images["server"])
    assert config["Healthcheck"]["Test"] == ["CMD", "python", "-m", "services.platform.probe"]  # type: ignore[index]
    with pytest.raises(subprocess.CalledProcessError) as error:
        engine.docker("run", "--rm", images["server"], "python", "-m", "services.platform.probe")
    assert error.value.stdout.startswith(b"no service answers at any of the ports")
