"""Which tasks run in sessions; the others run one at a time, each by itself."""

import sys

from services.contract.output_name import is_template
from services.contract.task_input import ByteRange, Index, Item, WholeObject
from services.engine.attempt import ClaimedTask, StageWork
from services.inputs.registry import suffix_of
from services.platform import tracing
from services.worker.child.job import FILE_BYTES_MAX
from services.worker.task.values import is_by_value

_SUFFIX_BYTES_MAX = 200  # of a file's name, so that every file system can have it


def has_files(stage: StageWork) -> bool:
    """Whether each of its tasks in a session has an input and an output of its own."""
    return stage.spec.callable is not None


def may_run_in_session(stage: StageWork) -> bool:
    """Whether those of its tasks can that `is_sent`."""
    spec = stage.spec
    return (
        sys.platform == "linux"  # whose pipes the tokens need
        and (
            spec.function is not None or spec.callable is not None
        )  # what else there is starts programs, or reads much
        and not stage.fan_out  # which lists any number of items in a file that the worker checks
        and not stage.inputs  # whose places each child must be let see
        and not spec.outputs  # of which the worker finds out which are there
        and not spec.output_directory  # likewise
        and not is_template(spec.output)  # whose names the tasks must agree upon
        and not tracing.recording()  # spans are of single attempts
    )


def is_sent(task: ClaimedTask, stage: StageWork) -> bool:
    """Whether the input is a value, or for a callable a small file, which the child gets with the task."""
    if not has_files(stage):
        return is_by_value(task, stage)  # for a file's records the child needs the readers of its format
    match task.input:
        case Item() | Index():
            return True
        case WholeObject(location, etag=etag, version=version, bytes=size):
            stays_as_it_is = (etag or version) is not None
            has_a_name = len(suffix_of(location.key).encode()) <= _SUFFIX_BYTES_MAX
            return size is not None and size <= FILE_BYTES_MAX and stays_as_it_is and has_a_name
        case ByteRange(bytes=size):
            return size is not None and size <= FILE_BYTES_MAX
        case _:
            return False  # directories, and parts that the child must build
