"""A child's answer to a job, checked: user code shares the child's process, and may have written it."""

from contextlib import suppress
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

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


def _small(value: Any) -> Any:
    try:
        encoded = b"" if value is None else encode_json(value)
    except Malformed as error:
        raise ValueError(f"can't be stored: it {error}") from None
    if len(encoded) > VALUE_BYTES_MAX or b"\\u0000" in encoded:
        raise ValueError(f"can't be stored: at most {VALUE_BYTES_MAX} bytes of JSON fit, without NUL characters")
    return value


class _Raised(BaseModel):
    model_config = ConfigDict(strict=True)

    class_: str = Field(alias="class", max_length=1000, pattern=r"^[^\x00]*$")
    traceback: str = Field(max_length=TRACEBACK_CHARACTERS_MAX)
    args: Annotated[list[Any] | None, AfterValidator(_small)] = None


class _Error(BaseModel):
    model_config = ConfigDict(strict=True)

    type: str = Field(pattern="^[a-z_]{1,40}$")
    message: Annotated[str, AfterValidator(lambda text: text[:_MESSAGE_MAX])]
    raised: _Raised | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)

    clean: bool
    memory_bytes: _Count
    memory_bytes_peak: _Count = 0
    cpu_seconds: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False)
    exit_code: int | None = Field(None, ge=-(2**31), lt=2**31)
    error: _Error | None = None
    retryable: bool = True
    records_in: _Count = 0
    records_out: _Count = 0
    records_rejected: _Count = 0
    records_filtered: _Count = 0
    records_added: _Count = 0
    items: _Count | None = None
    header_bytes: _Count | None = None
    value: Annotated[Any, AfterValidator(_small)] = None


class _SessionAnswer(_Answer):
    """`token` is the task's; END for the end of the session. `began` is by CLOCK_MONOTONIC. It has run `programs`."""

    token: int = Field(ge=0, lt=2**32)
    began: float = Field(0.0, ge=0, le=1e12, allow_inf_nan=False)
    seconds: float = Field(0.0, ge=0, le=1e9, allow_inf_nan=False)
    log_end: _Count = 0
    programs: bool = False
    over: bool = False


_DEFAULTS = {
    name: field.default
    for name, field in _SessionAnswer.model_fields.items()
    if not field.is_required() and name not in ("error", "value")
}


def read_session_answer(body: bytes) -> dict[str, Any]:
    """Likewise, of a task in a session, with what is not there as if it were 0. Raises TaskError (crash)."""
    return _DEFAULTS | _read(_SessionAnswer, body)


def read_answer(body: bytes) -> dict[str, Any]:
    """The fields that the answer has. Raises TaskError (crash) unless their types and bounds are those of an answer."""
    return _read(_Answer, body)


def _decode(body: bytes) -> Any:
    """By the fast reader, where it surely reads the same as that of the protocol."""
    if keeps_digits(body):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
    return frames.decode(body)


def _read(model: type[_Answer], body: bytes) -> dict[str, Any]:
    try:
        return model.model_validate(_decode(body)).model_dump(exclude_unset=True, by_alias=True)
    except ValidationError as error:
        why = explain(error)
    except (ValueError, RecursionError) as error:
        why = f"it is not JSON: {error}"
    raise TaskError("crash", f"the processor's process gave an answer that can't be one: {why:.1000}")
