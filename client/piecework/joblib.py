"""A backend of joblib: import this module, and `with parallel_config("piecework"):` runs `Parallel` on the grid.

joblib batches short calls by the time that they take, and each batch is a task. Calls go as pickles, so the key of the
client must be a developer's. Options of `Client.executor` are options of the backend:
`parallel_config("piecework", n_jobs=200, memory="2GB")`.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, register_parallel_backend

from piecework.calls.executor import Executor
from piecework.client import Client

N_JOBS = 100  # batches that are on their way at the same time, if n_jobs is -1


class PieceworkBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs each batch of a `Parallel` as a call of an executor that ships pickles."""

    supports_retrieve_callback = True
    supports_return_generator = True
    default_n_jobs = N_JOBS

    def __init__(self, client: Client | None = None, **options: Any) -> None:
        own = {name: options.pop(name) for name in ("nesting_level", "inner_max_num_threads") if name in options}
        super().__init__(**own)
        self._client = client
        self._options = options
        self._executor: Executor | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        if n_jobs == 0:
            raise ValueError("n_jobs must not be 0")
        return N_JOBS if n_jobs is None or n_jobs < 0 else n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        self.parallel = parallel
        self._executor = (self._client or Client()).executor(ship="pickle", **self._options)
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> "Future[Any]":
        assert self._executor is not None
        future = self._executor.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: "Future[Any]") -> Any:
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        self._end(cancel=True)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    def terminate(self) -> None:
        self._end(cancel=False)

    def _end(self, *, cancel: bool) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=not cancel, cancel_futures=cancel)
            self._executor = None


register_parallel_backend("piecework", PieceworkBackend)
