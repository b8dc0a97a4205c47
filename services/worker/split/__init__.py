"""The work of a split task: what needs a reader of every byte becomes task inputs, listed for the next stage."""

from services.worker.split.run import run_grid_split

__all__ = ["run_grid_split"]
