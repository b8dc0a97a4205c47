"""The work of a split task: it reads every byte of an input, and lists task inputs for the next stage."""

from services.worker.split.run import run_grid_split

__all__ = ["run_grid_split"]
