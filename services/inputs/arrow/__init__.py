"""Arrow IPC files, cut between record batches."""
