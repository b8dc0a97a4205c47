"""Checks the input of a job that starts now when it is submitted, before the scheduler or a task finds a fault."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore.exceptions import ClientError, ParamValidationError

from services.api.connections import Connections
from services.engine.places import Reader
from services.engine.processor_checks import check_named_params
from services.engine.spec import JobSpec
from services.engine.submission import resolve_stages
from services.inputs.chunk import SplitError
from services.inputs.reach import YET_TO_UPLOAD, Reach, ReachableS3, place_of
from services.inputs.spec import Input
from services.inputs.split import look
from services.platform.concurrency import map_at_most
from services.platform.problems import invalid
from services.platform.reads import PinnedObject

DECLARED_MAX = 100  # declared objects checked per stage; tasks find faults of the rest
DECLARED_AT_ONCE = 8

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


async def check_inputs(api: Connections, spec: JobSpec) -> None:
    """Raises a 422 for the first field of the job's input (or inputs) that can't be read or split."""
    for number, source in enumerate(spec.inputs):
        field = f"input.{number}" if isinstance(spec.input, list) else "input"
        if (place_of(source) or ("", ""))[1].startswith(YET_TO_UPLOAD):
            continue
        with naming(field, source):
            await look(ReachableS3(api.aws.s3, Reach(api.settings), source), source)


@contextmanager
def naming(field: str, source: Input) -> Iterator[None]:
    """Turns a fault of the source's object or prefix into a 422 that blames the field with its URI."""
    name, uri = place_of(source) or (None, None)
    with _blaming(field if name is None else f"{field}.{name}", uri):
        yield


@contextmanager
def _blaming(field: str, uri: str | None) -> Iterator[None]:
    """Turns an unreadable or unsplittable input into a 422; faults that may pass are raised as they are."""
    try:
        yield
    except SplitError as error:
        raise invalid(field, uri, str(error)) from error
    except ParamValidationError as error:
        raise invalid(field, uri, _REASONS["InvalidBucketName"]) from error
    except ClientError as error:
        reason = _REASONS.get(error.response.get("Error", {}).get("Code", ""))
        if reason is None:
            raise
        raise invalid(field, uri, reason) from error


async def find_declared_inputs(api: Connections, spec: JobSpec, reader: Reader) -> dict[str, str]:
    """The field of each object that a stage's processor declares, by its URI. Raises SpecError if the job can't run."""
    async with api.transaction() as connection:
        stages = await resolve_stages(connection, spec, api.settings, reader)
    for stage in stages:
        reference = f"{stage.processor}@{stage.version}"
        check_named_params(stage.processor_spec, stage.spec.params, reference, f"{stage.field}.params")
    return {uri: f"{stage.field}.inputs.{name}" for stage in stages for name, uri in stage.inputs.items()}


async def check_declared_inputs(api: Connections, declared: Mapping[str, str]) -> None:
    """Raises a 422 for a missing object that a stage's processor declares.

    An object that the API may not read is left to the tasks, since workers may have another role.
    """

    async def find(uri: str) -> None:
        with _blaming(declared[uri], uri):
            try:
                await PinnedObject.find(api.aws.s3, uri)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("403", "AccessDenied"):
                    raise

    there = [uri for uri in declared if not uri.startswith(YET_TO_UPLOAD)]
    await map_at_most(DECLARED_AT_ONCE, find, there[:DECLARED_MAX])
