"""A processor's module is imported once a process, and what it sets up is kept for all tasks."""

import os
import sys
from typing import Any

from services.worker.child.environment import set_environment
from services.worker.child.functions import is_loaded, load_function
from services.worker.child.process_state import ProcessState

own_tmp = ""  # the process's own TMPDIR, removed with it; each task has one of its own


def load(function: str, environment: dict[str, str], private: str, state: ProcessState) -> None:
    """Import the function's module, once, for a task with this environment and this private directory.

    Its temporary files are kept, too, with this process. Raises TaskError (processor_load), and what user code raises.
    """
    if is_loaded(function):
        return
    before = dict(os.environ)
    if before.get("TMPDIR", "").startswith(private):
        before["TMPDIR"] = os.environ["TMPDIR"] = own_tmp
    try:
        load_function(function)
    except BaseException:
        state.lose()
        raise
    state.environment = {name: value for name, value in os.environ.items() if before.get(name) != value}
    set_environment(environment | state.environment)
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile and tempfile.tempdir == own_tmp:
        tempfile.tempdir = None  # to be found again, by each task
    state.remember()
