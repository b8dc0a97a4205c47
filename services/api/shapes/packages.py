"""Packages: code that processors run, by the hash of its zip archive."""

from typing import Annotated

from pydantic import BaseModel, Field

from services.contract.fields import SIZE, Strict

BYTES_MAX = 268_435_456

Sha256 = Annotated[
    str, Field(max_length=64, pattern="^[0-9a-f]{64}$", examples=["9f86d081884c7d659a2feaa0c55ad015" * 2])
]


class PackageSpec(Strict):
    """A zip archive to push, with one directory, which holds modules and possibly a requirements.txt."""

    sha256: Sha256 = Field(description="of the archive")
    bytes: Annotated[int, Field(ge=1, le=BYTES_MAX), SIZE] = Field(description="size of the archive", examples=[48_213])


class Package(BaseModel):
    """A package's place."""

    sha256: str
    uri: str
    bytes: int
    url: str | None = Field(description="presigned; PUT the archive to it. Null: the archive exists already")
