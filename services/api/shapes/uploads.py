"""Uploads: raw data from a user to S3."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.contract.fields import SIZE, Strict

BYTES_MAX = 5_497_558_138_880  # of an S3 object
PARTS_MAX = 10_000
PART_BYTES = 67_108_864  # of an upload that 10,000 such parts hold; larger ones have larger parts
_MEBIBYTE = 1_048_576

UploadState = Literal["running", "completed", "aborted"]


def _check_filename(value: str) -> str:
    given, value = value, value.removesuffix("/")
    if not value or value in (".", "..") or "/" in value or "\\" in value or not value.isprintable():
        raise ValueError("write a plain file name: without slashes and control characters, and not '.' or '..'")
    if given != value and "${filename}" in value:
        raise ValueError("write a directory name without ${filename}: its form puts the files' names there")
    if len(value.encode()) > 255:
        raise ValueError("write a file name of at most 255 bytes (in UTF-8)")
    return given


class UploadSpec(Strict):
    """A file or directory to upload."""

    filename: Annotated[str, Field(max_length=256), AfterValidator(_check_filename)] = Field(
        description="if it ends in a slash, a directory of any number of files", examples=["flights.csv"]
    )
    bytes: Annotated[int, Field(ge=0, le=BYTES_MAX), SIZE] = Field(
        description="size of the file, or of all files of the directory", examples=[31_000_000]
    )
    sha256: Annotated[str, Field(max_length=64, pattern="^[0-9a-f]{64}$")] | None = Field(
        None,
        description="SHA-256 of the content (of a directory, by any rule of yours): if you have uploaded the same by "
        "this name, that is used again",
    )


class UploadLink(BaseModel):
    """Where one part goes: PUT its bytes to the URL and keep the answer's ETag."""

    number: int
    url: str = Field(description="presigned; valid for a limited time, and only for this many bytes")
    bytes: int


class UploadForm(BaseModel):
    """Where each file of a directory goes: POST the fields and then the field `file` as multipart/form-data."""

    url: str
    fields: dict[str, str] = Field(
        description="signed for a limited time; put the file's path in the directory for `${filename}` in `key`"
    )


class UploadedPart(Strict):
    """A part that S3 has taken."""

    number: Annotated[int, Field(ge=1, le=PARTS_MAX)]
    etag: Annotated[str, Field(min_length=1, max_length=200)]


class Upload(BaseModel):
    """An upload that has begun."""

    upload_id: UUID
    uri: str = Field(
        description="URI of the future object; for a directory, of its prefix",
        examples=["s3://piecework/uploads/…/flights.csv"],
    )
    multipart_id: str | None = Field(description="S3's id of the multipart upload; null for a single PUT")
    part_bytes: int = Field(description="size of every part but the last")
    parts: list[UploadLink]
    form: UploadForm | None = Field(None, description="only for a directory, which has no parts")
    uploaded: list[UploadedPart] = Field([], description="the parts that S3 has already; `parts` are the others")
    completed: bool = Field(False, description="whether this is an equal upload from before: nothing is left to do")


class UploadSummary(Row):
    """An upload in a list."""

    upload_id: UUID
    uri: str
    bytes: int
    state: UploadState
    created_by: str | None = Field(description="the principal that it belongs to; null: made before there were any")
    created_at: datetime
    completed_at: datetime | None
    aborted_at: datetime | None


class UploadPage(Page[UploadSummary]):
    """Uploads, newest first."""


class UploadCompletion(Strict):
    """The parts, with the ETags that S3 answered."""

    parts: Annotated[list[UploadedPart], Field(max_length=PARTS_MAX)] = Field(
        [], description="not needed after a single PUT, or for a directory"
    )


class CompletedUpload(BaseModel):
    """An uploaded object, or the uploaded objects of a directory."""

    upload_id: UUID
    uri: str
    bytes: int


def part_sizes(size: int) -> list[int]:
    """How an object of `size` bytes is cut for its upload: at least one part, at most PARTS_MAX."""
    part_bytes = max(PART_BYTES, -(-size // PARTS_MAX // _MEBIBYTE) * _MEBIBYTE)
    whole, rest = divmod(size, part_bytes)
    return [part_bytes] * whole + ([rest] if rest or not whole else [])
