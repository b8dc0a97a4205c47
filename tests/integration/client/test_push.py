"""`piecework processors push`: code from a directory to S3, and the processors in it registered."""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from piecework import packing
from services.platform.aws import Aws
from services.platform.settings import Settings
from tests.integration.client.conftest import Command

FILES = {
    "pricing.py": "def price(record):\n    return record\n",
    "lib/fees.py": "FEE = 7\n",
    "bin/tool": "#!/bin/sh\n",
    "requirements.txt": "",
    "processors/price.yaml": "records: claims.pricing:price\ndescription: prices a claim\n",
    "processors/tool.yaml": "name: run-tool\ncommand: ['{package}/bin/tool']\n",
    "processors/late.yaml": "sql: SELECT * FROM input\n",
    ".git/config": "secret",
    ".env": "PASSWORD=secret",
    "__pycache__/pricing.pyc": "compiled",
    "lib/old.pyc": "compiled",
}


def write(directory: Path) -> Path:
    for name, content in FILES.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (directory / "bin/tool").chmod(0o755)
    return directory


async def test_a_directory_is_shipped_once_and_its_processors_follow_its_code(
    piecework: Command, tmp_path: Path, settings: Settings, aws: Aws
) -> None:
    directory = write(tmp_path / "claims")
    assert (await piecework("processors", "push", str(directory))).split() == ["late@1", "price@1", "run-tool@1"]
    spec = (await piecework.run("processors", "show", "price", "--json")).json["spec"]
    body = await (await aws.s3.get_object(Bucket=settings.bucket, Key=f"packages/{spec['package']}.zip"))["Body"].read()
    assert hashlib.sha256(body).hexdigest() == spec["package"]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        shipped = {entry.filename: archive.read(entry).decode() for entry in archive.infolist()}
        modes = {entry.filename: entry.external_attr >> 16 & 0o777 for entry in archive.infolist()}
    kept = list(FILES)[:7]
    assert shipped == {f"claims/{name}": FILES[name] for name in kept}
    assert {name for name, mode in modes.items() if mode == 0o755} == {"claims/bin/tool"}

    os.utime(directory / "pricing.py", (0, 0))
    assert (await piecework("processors", "push", str(directory))).split() == ["late@1", "price@1", "run-tool@1"]
    (directory / "lib/fees.py").write_text("FEE = 8\n")
    assert (await piecework("processors", "push", str(directory), "--name", "price")) == "price@2"
    assert (await piecework("processors", "push", str(directory))).split() == ["late@1", "price@2", "run-tool@2"]


async def test_what_can_not_be_pushed(piecework: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "claims")
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/processor.yaml").write_text("command: [x]\noutput: rejects.jsonl\n")
    monkeypatch.setattr(packing, "BYTES_MAX", (1 << 20) + 200)
    (directory / "lib/fees.py").write_text("x" * 300)
    for arguments, message in {
        (str(directory),): "a package is code, keep data out of it",
        (str(directory), "--name", "x"): "has no processor 'x'; it has late, price, run-tool",
        (str(tmp_path / "wrong"),): "processor wrong: output: Piecework itself writes a file named rejects.jsonl",
        (str(tmp_path / "empty"),): "neither a processor.yaml nor a processors/*.yaml in it",
    }.items():
        done = await piecework.run("processors", "push", *arguments)
        assert (done.code != 0, message in " ".join(done.err.split())) == (True, True), done.err
