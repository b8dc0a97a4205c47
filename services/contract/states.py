"""The names that database, API, messages and client share."""

TASK_STATES = ("ready", "queued", "running", "succeeded", "failed", "cancelled")

RECORD_COUNTS = ("records_in", "records_out", "records_rejected", "records_filtered", "records_added")
