"""A child's answer to a job, checked: user code shares the child's process, and may have written it."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from services.contract.task_error import Malformed, TaskError
from services.engine.errors import explain
from services.inputs.json_text import encode_json
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


def read_answer(body: bytes) -> dict[str, Any]:
    """The fields that the answer has. Raises TaskError (crash) unless their types and bounds are those of an answer."""
    try:
        return _Answer.model_validate(frames.decode(body)).model_dump(exclude_unset=True, by_alias=True)
    except ValidationError as error:
        why = explain(error)
    except (ValueError, RecursionError) as error:
        why = f"it is not JSON: {error}"
    raise TaskError("crash", f"the processor's process gave an answer that can't be one: {why:.1000}")
