"""A grid that runs a job whenever it is told to: one side of `bench.ab`, started in the tree that is to be measured.

Reads a line "PROCESSOR TASKS" a turn from its standard input and answers with a line of JSON: the job's seconds, and
the CPU seconds of all processes, Postgres and the emulator among them. It imports of its tree only what old ones have.
"""

import json
import sys

from bench.grid import running_grid
from bench.suites.noop import job_seconds

PROCESSORS = {"noop": {"builtin": "noop"}, "function": {"callable": "bench_tasks:nothing"}}


def main() -> None:
    with running_grid() as grid:
        for name, spec in PROCESSORS.items():
            grid.client.register_processor(name, spec)
            grid.run_job(name, 500)  # pays for connections, prepared statements and warm children
        print("ready", flush=True)
        for line in sys.stdin:
            processor, tasks = line.split()
            with grid.measured(sampled=()) as usage:
                seconds = job_seconds(grid.run_job(processor, int(tasks)))
            print(json.dumps({"seconds": seconds, "cpu_seconds": sum(usage.cpu_seconds.values())}), flush=True)


if __name__ == "__main__":
    main()
