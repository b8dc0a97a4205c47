"""The statistics of jobs, workers and pools: rolled up from attempts, served as JSON and Prometheus metrics."""
