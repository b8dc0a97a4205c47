"""Checks the user's own place for results when a job is submitted, before any work is done."""

from botocore.exceptions import ClientError, ParamValidationError

from services.api.connections import Connections
from services.contract.location import Location
from services.platform.problems import invalid
from services.platform.s3_faults import error_code

_REASONS = {
    "404": "there is no such bucket",
    "403": "Piecework may not use this bucket; grant its role what docs/api.md lists under Results",
    "301": "the bucket is in another region; use one in Piecework's region",
    "400": "S3 refuses this name; check the bucket's name and region",
}


async def check_results_place(api: Connections, place: str | None, field: str = "results") -> None:
    """Raises a 422 for the field if Piecework can't find or use the bucket. (Only a write shows that it may write.)"""
    if place is None:
        return
    try:
        await api.aws.s3.head_bucket(Bucket=Location.parse(place).bucket)
    except ParamValidationError as error:
        raise invalid(field, place, "this is not a bucket's name") from error
    except ClientError as error:
        reason = _REASONS.get(error_code(error))
        if reason is None:
            raise
        raise invalid(field, place, reason) from error
