"""The input of a job that runs now is looked at when it is submitted, not first by the scheduler."""

from botocore.exceptions import ClientError, ParamValidationError

from services.api.connections import Connections
from services.common.layout import Location
from services.common.parquet import ParquetError, read_footer
from services.common.problems import ProblemError, invalid
from services.common.spec import Input, LinesInput, ObjectsInput, ParquetInput

# S3 answers 404 without saying whether bucket or key is missing, and 403 for either if the bucket can't be listed.
_REASONS = {
    "404": "there is no such object (or bucket)",
    "NoSuchKey": "there is no such object",
    "NoSuchBucket": "there is no such bucket",
    "403": "Piecework may not read this, or it does not exist; grant its role s3:GetObject and s3:ListBucket",
    "AccessDenied": "Piecework may not read this, or it does not exist; grant its role s3:GetObject and s3:ListBucket",
    "301": "the bucket is in another region; use one in Piecework's region",
    "PermanentRedirect": "the bucket is in another region; use one in Piecework's region",
    "400": "S3 refuses this name; check the bucket's name and region",
    "InvalidBucketName": "this is not a bucket's name",
}


async def check_input(api: Connections, source: Input) -> None:
    """Raises a 422 for `input.uri` or `input.prefix` if what it names can't be read."""
    match source:
        case LinesInput():
            field, location = "input.uri", Location.parse(source.uri)
        case ParquetInput():
            field, location = "input.uri", Location.parse(source.uri)
        case ObjectsInput():
            field, location = "input.prefix", Location.parse(source.prefix)
        case _:
            return
    try:
        if isinstance(source, ObjectsInput):
            listing = await api.aws.s3.list_objects_v2(Bucket=location.bucket, Prefix=location.key, MaxKeys=1)
            if listing["KeyCount"] == 0:
                raise invalid(field, location.uri, "no object is under this prefix; upload the data first")
            return
        await api.aws.s3.head_object(Bucket=location.bucket, Key=location.key)
        if isinstance(source, ParquetInput):
            await read_footer(api.aws.s3, location)
    except ParquetError as error:
        raise invalid(field, location.uri, str(error)) from error
    except ParamValidationError as error:
        raise invalid(field, location.uri, _REASONS["InvalidBucketName"]) from error
    except ClientError as error:
        raise _unreadable(field, location, error) from error


def _unreadable(field: str, location: Location, error: ClientError) -> ProblemError | ClientError:
    reason = _REASONS.get(error.response.get("Error", {}).get("Code", ""))
    return error if reason is None else invalid(field, location.uri, reason)
