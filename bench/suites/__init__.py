"""What can be measured: a module a suite, with `run(tasks)` giving JSON-able results and `report(results)` lines."""
