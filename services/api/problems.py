"""Problems for the exceptions that only the API meets."""

import structlog
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import Request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.engine.errors import Conflict, NotFound, SpecError
from services.engine.open_jobs import EnoughItems
from services.engine.quotas import QuotaExceeded
from services.platform import problems
from services.platform.problems import ProblemError

BODY = (400, 413, 415)  # the errors of a request with a body

ROOM_SECONDS = 1  # after which a full job may have room for more items

log = structlog.get_logger()


def describe(request: Request, error: BaseException) -> ProblemError:
    """The problem that tells a client of `error`."""
    if isinstance(error, DBAPIError) and error.orig is not None and error.orig.__cause__ is not None:
        error = error.orig.__cause__  # asyncpg's error, without SQLAlchemy's two wrappers
    match error:
        case NotFound():
            return ProblemError(404, "not-found", str(error))
        case Conflict():
            return problems.conflict(str(error))
        case EnoughItems():
            retry = {"Retry-After": str(ROOM_SECONDS)}
            return ProblemError(429, "enough-items", str(error), headers=retry)
        case QuotaExceeded():
            return ProblemError(409, "quota-exceeded", str(error))
        case SpecError():
            return problems.invalid(error.field, error.value, error.fix)
        case PoolTimeout():
            return problems.unavailable("the database", error)
        case BotoCoreError():
            return problems.unavailable("S3, SQS or Auto Scaling", error)
        case ClientError():
            return _refused(error)
    return problems.describe(request, error)


def _refused(error: ClientError) -> ProblemError:
    log.error("AWS refused a call", operation=error.operation_name, error=str(error))
    code = error.response.get("Error", {}).get("Code", "unknown")
    return ProblemError(502, "aws-refused", f"AWS refused {error.operation_name} with {code}; see the service's log")
