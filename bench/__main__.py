"""`python -m bench [SUITE …]`: measure, print, and record in bench/results/."""

import argparse
import importlib
import signal
import sys
import traceback

from bench.record import Record

STANDARD = (
    "noop",
    "function",
    "map",
    "isolation",
    "latency",
    "sleep",
    "transform",
    "sql",
    "transcode",
    "merge",
    "idle",
)
SUITES = (
    *STANDARD,
    "splits",
    "peers",
    "tenmillion",
    "manyjobs",
    "statements",
    "deletion",
    "partitions",
    "soak",
    "sizing",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all but the last nine"
    )
    parser.add_argument(
        "--size", type=int, help="tasks (jobs, MB) instead of the suite's own number, to try it small; not recorded"
    )
    options = parser.parse_args()
    if unknown := set(options.suites) - set(SUITES):
        parser.error(f"no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    record = Record(keep=options.size is None)
    failed = [name for name in options.suites or STANDARD if not run_suite(name, options.size, record)]
    record.present()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def run_suite(name: str, size: int | None, record: Record) -> bool:
    """Run, print and record a suite; False if it failed, which keeps no other from being run."""
    print(f"\n{name}", flush=True)
    suite = importlib.import_module(f"bench.suites.{name}")
    try:
        results = suite.run(size)
    except Exception:
        traceback.print_exc()
        return False
    for line in suite.report(results):
        print(f"  {line}", flush=True)
    record.add(name, results)
    return True


if __name__ == "__main__":
    main()
