"""Where objects live in S3 (docs/design.md, section 6)."""

import re
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from services.contract.location import Location

SCHEDULER = -1  # in the place of a task's index: what schedulers make
ALL_STAGES = -1  # in the place of a stage
_MADE = re.compile(r"(\d+)/(?:(\d+)-(\d+)/(.+)|joined|inputs/.+)")
_LOG = re.compile(r"\d+/\d+-\d+/log\.txt(?:/live)?")

Part = Literal["interim", "results", "records"]  # of what a job has in S3, each kept for a time of its own


@dataclass(frozen=True, slots=True)
class Maker:
    """The attempt that made an object; with the index SCHEDULER, whoever joined or listed outputs for a stage."""

    stage: int
    index: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of everything that Piecework itself writes, under one bucket and prefix."""

    bucket: str
    prefix: str = ""

    def _at(self, key: str) -> Location:
        return Location(self.bucket, f"{self.prefix}/{key}" if self.prefix else key)

    @property
    def root(self) -> Location:
        """The prefix (empty, or ending in a slash) of all of this."""
        return self._at("")

    def upload(self, upload_id: UUID, filename: str) -> Location:
        return self._at(f"uploads/{upload_id}/{filename}")

    def uploading(self, upload_id: UUID, filename: str) -> Location:
        """Where links that outlive the upload write; jobs read nothing there."""
        return self._at(f"uploading/{upload_id}/{filename}")

    def job(self, job_id: UUID) -> Location:
        """The prefix (ends in a slash) of what is kept of a job: results, logs. A release before had all there."""
        return self._at(f"jobs/{job_id}/")

    def interim(self, job_id: UUID) -> Location:
        """The prefix (ends in a slash) of what stages of a job hand to each other."""
        return self._at(f"interim/{job_id}/")

    def prefixes(self, job_id: UUID) -> tuple[Location, Location]:
        """Both, of everything that a job writes here."""
        return self.job(job_id), self.interim(job_id)

    def is_of_job(self, job_id: UUID, location: Location) -> bool:
        """Whether the job itself has made the object."""
        return any(
            location.bucket == prefix.bucket and location.key.startswith(prefix.key) for prefix in self.prefixes(job_id)
        )

    def attempt(
        self, job_id: UUID, stage: int, index: int, attempt: int, filename: str, *, interim: bool = False
    ) -> Location:
        """What an attempt makes; `interim`: only later stages and the merge need it."""
        return self._at(f"{'interim' if interim else 'jobs'}/{job_id}/{stage}/{index}-{attempt}/{filename}")

    def maker(self, job_id: UUID, location: Location) -> Maker | None:
        """Who made an object that stages hand to each other; None of any other object."""
        if not self.is_of_job(job_id, location):
            return None
        made = _MADE.fullmatch(self._place(job_id, location.key))
        if made is None:
            return None
        stage, index, attempt, _ = made.groups()
        return Maker(int(stage), SCHEDULER if index is None else int(index), int(attempt or 0))

    def filename(self, job_id: UUID, location: Location) -> str | None:
        """What an attempt of the job has named the object, with the folder if it has one; None of any other object."""
        if not self.is_of_job(job_id, location):
            return None
        made = _MADE.fullmatch(self._place(job_id, location.key))
        return made[4] if made else None

    def _place(self, job_id: UUID, key: str) -> str:
        """The key below the job's prefix."""
        job, interim = self.prefixes(job_id)
        return key.removeprefix(job.key).removeprefix(interim.key)

    def part_of(self, job_id: UUID, key: str, results_stage: int | None) -> Part:
        """To which part of a job an object with this key belongs, wherever its release has put it.

        `results_stage` is the stage whose outputs are results, since nothing merges them; ALL_STAGES: each is.
        """
        if key.startswith(self.interim(job_id).key):
            return "interim"
        place = self._place(job_id, key)
        if place.startswith("results/"):
            return "results"
        if place.startswith("pins/") or _LOG.fullmatch(place):
            return "records"
        made = _MADE.fullmatch(place)
        if made and made[2] and results_stage in (ALL_STAGES, int(made[1])):
            return "results"
        return "interim"

    def log(self, job_id: UUID, stage: int, index: int, attempt: int) -> Location:
        return self.attempt(job_id, stage, index, attempt, "log.txt")

    def live_log(self, job_id: UUID, stage: int, index: int, attempt: int) -> Location:
        """The log as it is while the attempt runs, if somebody follows it. No output can have this key."""
        return self.attempt(job_id, stage, index, attempt, "log.txt/live")

    def pin(self, job_id: UUID, digest: str) -> Location:
        """The pinned ETag of an object that the job's processors declare."""
        return self._at(f"jobs/{job_id}/pins/{digest}")

    def package(self, sha256: str) -> Location:
        """The code of processors."""
        return self._at(f"packages/{sha256}.zip")

    def outputs(self, job_id: UUID, stage: int, index: int, writer_id: UUID) -> Location:
        """One writer's listing of the outputs that a task of a reduce works on: JSON lines."""
        return self._at(f"interim/{job_id}/{stage}/inputs/{index}-{writer_id}.jsonl")

    def joined(self, job_id: UUID, stage: int) -> Location:
        """The outputs of a stage as one object, which the next stage splits again."""
        return self._at(f"interim/{job_id}/{stage}/joined")

    def sections(self, job_id: UUID, stage: int, filename: str) -> Location:
        """The prefix (ends in a slash) of interim objects while the stage's outputs are joined into `filename`."""
        return self._at(f"interim/{job_id}/{stage}/sections/{filename}/")

    def result(self, job_id: UUID, filename: str, place: str | None = None) -> Location:
        """A result, under the job's id in the user's own `place` (s3://bucket/prefix/) if there is one."""
        if place is None:
            return self._at(f"jobs/{job_id}/results/{filename}")
        prefix = Location.parse(place)
        folder = prefix.key if prefix.key.endswith("/") or not prefix.key else f"{prefix.key}/"
        return Location(prefix.bucket, f"{folder}{job_id}/{filename}")
