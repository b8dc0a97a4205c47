"""A child's answer to a job, checked: user code shares the child's process, and may have written it."""

from contextlib import suppress
from typing import Annotated, Any, NotRequired, Required, cast

import orjson
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from services.contract.states import RECORD_COUNTS
from services.contract.task_error import Malformed, TaskError
from services.engine.errors import explain
from services.inputs.json_text import encode_json, keeps_digits
from services.worker.child import frames
from services.worker.child.counts import COUNT_MAX
from services.worker.child.job import VALUE_BYTES_MAX
from services.worker.child.raised import TRACEBACK_CHARACTERS_MAX

BYTES_MAX = 1 << 20  # of an answer
_MESSAGE_MAX = 20_000  # characters that are kept

_Count = Annotated[int, Field(ge=0, le=COUNT_MAX)]
_Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]


def _small(value: Any) -> Any:
    try:
        encoded = b"" if value is None else encode_json(value)
    except Malformed as error:
        raise ValueError(f"can't be stored: it {error}") from None
    if len(encoded) > VALUE_BYTES_MAX or b"\\u0000" in encoded:
        raise ValueError(f"can't be stored: at most {VALUE_BYTES_MAX} bytes of JSON fit, without NUL characters")
    return value


_STRICT = ConfigDict(strict=True)
_CLASS = Field(max_length=1000, pattern=r"^[^\x00]*$")
_TRACEBACK = Field(max_length=TRACEBACK_CHARACTERS_MAX)
_ARGS = Annotated[list[Any] | None, AfterValidator(_small)]
_Raised = TypedDict(
    "_Raised",
    {"class": Annotated[str, _CLASS], "traceback": Annotated[str, _TRACEBACK], "args": NotRequired[_ARGS]},
)
_Raised.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]


class _Error(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]

    type: Annotated[str, Field(pattern="^[a-z_]{1,40}$")]
    message: Annotated[str, AfterValidator(lambda text: text[:_MESSAGE_MAX])]
    raised: NotRequired[_Raised | None]


class _Answer(TypedDict, total=False):
    __pydantic_config__ = _STRICT  # type: ignore[misc]

    clean: Required[bool]
    memory_bytes: Required[_Count]
    memory_bytes_peak: _Count
    cpu_seconds: _Seconds
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None
    error: _Error | None
    retryable: bool
    records_in: _Count
    records_out: _Count
    records_rejected: _Count
    records_filtered: _Count
    records_added: _Count
    items: _Count | None
    header_bytes: _Count | None
    value: Annotated[Any, AfterValidator(_small)]


class _SessionAnswer(_Answer, total=False):
    """`token` is the task's; END for the end of the session. `began` is by CLOCK_MONOTONIC. It has run `programs`."""

    token: Required[Annotated[int, Field(ge=0, lt=2**32)]]
    began: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
    seconds: _Seconds
    log_end: _Count
    programs: bool
    over: bool


_ANSWER = TypeAdapter(_Answer)
_SESSION_ANSWER = TypeAdapter(_SessionAnswer)
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys((*RECORD_COUNTS, "memory_bytes_peak", "log_end"), 0),
    **dict.fromkeys(("cpu_seconds", "began", "seconds"), 0.0),
    **{"exit_code": None, "retryable": True, "programs": False, "over": False},
}


def read_session_answer(body: bytes) -> dict[str, Any]:
    """Likewise, of a task in a session, with what is not there as if it were 0, and with the bytes of its `file`, or
    None. Raises TaskError (crash).
    """
    text, file = frames.cut_bytes(body)
    return _DEFAULTS | _read(_SESSION_ANSWER, text) | {"file": file}


def read_answer(body: bytes) -> dict[str, Any]:
    """The fields that the answer has. Raises TaskError (crash) unless their types and bounds are those of an answer."""
    return _read(_ANSWER, body)


def _decode(body: bytes) -> Any:
    """By the fast reader, where it surely reads the same as that of the protocol."""
    if keeps_digits(body):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    return frames.decode(body)


def _read(answer: TypeAdapter[Any], body: bytes) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], answer.validator.validate_python(_decode(body)))
    except ValidationError as error:
        why = explain(error)
    except (ValueError, RecursionError) as error:
        why = f"it is not JSON: {error}"
    raise TaskError("crash", f"the processor's process gave an answer that can't be one: {why:.1000}")
