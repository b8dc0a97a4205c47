"""What runs in a slot's child process, next to user code: standard library only (pyarrow when Parquet is read)."""
