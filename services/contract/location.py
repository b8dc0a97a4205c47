"""A name in S3."""

from dataclasses import dataclass


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
        """Parse `s3://bucket/key`; raises ValueError that names the value and the fix."""
        scheme, separator, rest = uri.partition("://")
        bucket, slash, key = rest.partition("/")
        if scheme != "s3" or not separator or not bucket or not slash:
            raise ValueError(f"{uri!r} is not an S3 URI; write s3://bucket/key")
        return cls(bucket, key)
