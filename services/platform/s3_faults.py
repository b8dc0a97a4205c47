"""The meaning of S3's errors: whether another try may succeed, and if not, why.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. The answer to a HEAD has no body, so the
client gives its HTTP status in the code's place.
"""

from typing import Literal

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

Fault = Literal["missing", "archived", "refused", "misnamed", "changed", "passing"]

LOST: tuple[Fault, ...] = ("missing", "archived", "changed")  # what was written can't be read, however often one tries

# What the client raises: S3's refusals, and whatever went wrong before its answer was there. (aiobotocore tells by
# aiohttp's own exceptions that a body broke off.)
S3_ERRORS = (ClientError, BotoCoreError, aiohttp.ClientError, ConnectionError, TimeoutError)

_CODES: dict[Fault, tuple[str, ...]] = {
    "missing": ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "404", "MethodNotAllowed", "405"),
    "archived": ("InvalidObjectState",),
    "refused": (
        *("AccessDenied", "AllAccessDisabled", "403"),
        *(
            "KMS.DisabledException",
            "KMS.NotFoundException",
            "KMS.InvalidStateException",
            "KMS.KMSInvalidStateException",
        ),
        *("KMS.InvalidKeyUsageException"),
    ),
    "misnamed": (
        *("InvalidBucketName", "InvalidArgument", "InvalidRequest", "KeyTooLongError", "EntityTooLarge", "400"),
        *("PermanentRedirect", "301"),
    ),
    "changed": ("PreconditionFailed", "412", "InvalidRange", "416"),
}
_BUSY = ("RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests", "429")  # with other codes than 5xx
_FAULTS: dict[str, Fault] = {code: fault for fault, codes in _CODES.items() for code in codes}


def error_code(error: BaseException) -> str:
    """The code of AWS's refusal; the empty string if the error is not one."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def fault_of(error: BaseException) -> Fault:
    """Why S3 refused; `passing` if another try may succeed, as is assumed for an unknown code."""
    if isinstance(error, ParamValidationError):  # the client's own refusal of a name that can't be one
        return "misnamed"
    return _FAULTS.get(error_code(error), "passing")


def is_outage(error: BaseException) -> bool:
    """Whether S3 was not there, not well or too busy, whatever it was asked: nobody who asked is at fault."""
    if not isinstance(error, ClientError):
        return fault_of(error) == "passing"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or error_code(error) in _BUSY
