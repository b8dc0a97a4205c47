"""`make bench`: no-op throughput, start latency and memory, printed and written to bench/results/ as JSON."""

import json
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.machine import machine_facts
from bench.memory import peak_memory, resident_bytes
from bench.noop import run_noop_job, start_latency
from bench.stack import SLOTS, WORKERS, running_stack

RESULTS = Path(__file__).parent / "results"
NOOP_TASKS = (10_000, 100_000)
LATENCY_JOBS = 100


def main() -> None:
    facts = machine_facts()
    print(f"{facts['processor']}, {facts['cores']} cores; {WORKERS} workers of {SLOTS} slots\n", flush=True)
    with running_stack() as (settings, client):
        start_latency(client)  # the first job pays for connections and prepared statements
        results: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": facts}
        results["memory_idle_bytes"] = resident_bytes(settings)

        latencies = sorted(start_latency(client) for _ in range(LATENCY_JOBS))
        percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
        results["start_latency_seconds"] = {"jobs": LATENCY_JOBS, "p50": percentiles[49], "p99": percentiles[98]}
        print(f"\nsubmit to first start: p50 {percentiles[49] * 1000:.0f} ms, p99 {percentiles[98] * 1000:.0f} ms")

        results["noop"] = []
        with peak_memory(settings) as peaks:
            for tasks in NOOP_TASKS:
                result = run_noop_job(client, tasks)
                results["noop"].append(result)
                print(f"{tasks:>9,} no-op tasks: {result['seconds']:6.2f} s, {result['tasks_per_second']:,} tasks/s")
        results["memory_peak_bytes"] = peaks
    print("\nmemory      idle     peak")
    for name, peak in sorted(peaks.items()):
        print(f"{name:<10} {results['memory_idle_bytes'].get(name, 0) / 1e6:4.0f} MB  {peak / 1e6:4.0f} MB")
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{facts['commit']}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nwritten to {path.relative_to(RESULTS.parents[1])}")


if __name__ == "__main__":
    main()
