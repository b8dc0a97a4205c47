"""`piecework results --partial`: what a job has made so far, and what it lacks."""

import json
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

from piecework.cli.session import Session
from piecework.shapes import Job, Part

AT_ONCE = 500  # parts whose links are fetched at once: they do not last for ever
SHOWN = 20


def show_partial(session: Session, job_id: UUID, stage: int | None, directory: Path | None) -> None:
    """List or download the parts that are there. The manifest says which are, and why the others are not."""
    job = session.client.get_job(job_id)
    parts: list[Part] = []
    paths: list[Path] = []
    listed = iter(session.client.list_parts(job_id, stage=stage))
    while page := list(islice(listed, AT_ONCE)):
        parts += page
        if directory is not None:
            files = [file for part in page for file in part["files"]]
            paths += session.client.download(files, directory)
    manifest = _manifest(job, parts)
    if directory is None:
        session.show(manifest, lambda manifest: _show(session, manifest))
        return
    directory.mkdir(parents=True, exist_ok=True)
    paths.append(directory / "manifest.json")
    paths[-1].write_text(json.dumps(manifest, indent=1) + "\n")
    session.show({"files": [str(path) for path in paths]}, lambda _: [print(path) for path in paths])
    session.note(_summary(manifest))


def _manifest(job: Job, parts: list[Part]) -> dict[str, Any]:
    there = [part for part in parts if part["state"] == "succeeded"]
    number = parts[0]["stage"] if parts else None
    planned = next((stage["task_count"] for stage in job["stages"] if stage["stage"] == number), None)
    return {
        "job_id": job["job_id"],
        "name": job["name"],
        "state": job["state"],
        "partial": True,
        "stage": number,
        "tasks": planned,
        "parts": [_described(part) for part in there],
        "missing": [
            {name: part[name] for name in ("index", "state", "attempt", "input", "error")}
            for part in parts
            if part["state"] != "succeeded"
        ],
    }


def _described(part: Part) -> dict[str, Any]:
    files = [{name: value for name, value in file.items() if name != "url"} for file in part["files"]]
    made = {"index": part["index"], "attempt": part["attempt"], "input": part["input"], "files": files}
    return made if part["value"] is None else {**made, "value": part["value"]}


def _summary(manifest: dict[str, Any]) -> str:
    states = [missing["state"] for missing in manifest["missing"]]
    missing = ", ".join(f"{states.count(state):,} {state}" for state in sorted(set(states)))
    count = "?" if manifest["tasks"] is None else f"{manifest['tasks']:,}"
    there = f"{len(manifest['parts']):,} of {count} parts are there"
    return f"the job is {manifest['state']}: {there}" + (f"; {missing}" if missing else "")


def _show(session: Session, manifest: dict[str, Any]) -> None:
    from piecework.display import size, state, table

    table(
        session.out,
        ["NAME", ">SIZE", "?URI"],
        ((file["name"], size(file["bytes"]), file["uri"]) for part in manifest["parts"] for file in part["files"]),
    )
    if manifest["missing"]:
        print()
        table(
            session.out,
            [">INDEX", "STATE", "~?ERROR"],
            (
                (part["index"], state(part["state"]), part["error"]["message"] if part["error"] else None)
                for part in manifest["missing"][:SHOWN]
            ),
        )
    if len(manifest["missing"]) > SHOWN:
        session.note(f"only the first {SHOWN} of {len(manifest['missing']):,} that are missing are shown")
    session.note(_summary(manifest))
