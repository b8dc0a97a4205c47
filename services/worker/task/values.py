"""Tasks whose function gets a value: no file is made for it."""

from typing import Any

from services.contract.task_input import Index, Item
from services.engine.attempt import ClaimedTask, StageWork


def is_by_value(task: ClaimedTask, stage: StageWork) -> bool:
    return stage.spec.function is not None and isinstance(task.input, (Item, Index))


def value_filename(stage: StageWork) -> str:
    """That of the object which a value becomes that is too large for the task's row."""
    name = stage.spec.output
    return name if name.endswith(".json") else f"{name}.json"


def value_of(task: ClaimedTask) -> Any:
    """The item, or in an array job the task's number. Raises ValueError for a task without a value."""
    match task.input:
        case Item(value):
            return value
        case Index(number=None):
            return task.index
        case Index(number=number):
            return number
    raise ValueError(f"the input of task {task.index} is not a value: {task.input}")
