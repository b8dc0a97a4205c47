"""The code that runs in a slot's child process, together with user code.

It starts with the standard library and orjson; a task that needs zstandard, pyarrow, fastavro or duckdb imports it.
"""
