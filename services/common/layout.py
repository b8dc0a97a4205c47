"""Where objects live in S3 (docs/design.md, section 6)."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Location:
    """One S3 object."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @classmethod
    def parse(cls, uri: str) -> "Location":
        """Parse `s3://bucket/key`; raises ValueError that names the value and the mend."""
        scheme, separator, rest = uri.partition("://")
        bucket, slash, key = rest.partition("/")
        if scheme != "s3" or not separator or not bucket or not slash:
            raise ValueError(f"{uri!r} is not an S3 URI; write s3://bucket/key")
        return cls(bucket, key)


@dataclass(frozen=True, slots=True)
class Layout:
    """Keys of everything Piecework itself writes, under one bucket and prefix."""

    bucket: str
    prefix: str = ""

    def _at(self, key: str) -> Location:
        return Location(self.bucket, f"{self.prefix}/{key}" if self.prefix else key)

    def upload(self, upload_id: UUID, filename: str) -> Location:
        return self._at(f"uploads/{upload_id}/{filename}")

    def job(self, job_id: UUID) -> Location:
        """The prefix (ends in a slash) of all that a job wrote."""
        return self._at(f"jobs/{job_id}/")

    def attempt(self, job_id: UUID, stage: int, index: int, attempt: int, filename: str) -> Location:
        return self._at(f"jobs/{job_id}/{stage}/{index}-{attempt}/{filename}")

    def log(self, job_id: UUID, stage: int, index: int, attempt: int) -> Location:
        return self.attempt(job_id, stage, index, attempt, "log.txt")

    def outputs(self, job_id: UUID, stage: int) -> Location:
        """The listing of a stage's outputs that its reduce works on: JSON lines."""
        return self._at(f"jobs/{job_id}/{stage}/outputs.jsonl")

    def result(self, job_id: UUID, filename: str) -> Location:
        return self._at(f"jobs/{job_id}/results/{filename}")
