"""One module a loop: a `step` that services.scheduler.loop repeats."""
