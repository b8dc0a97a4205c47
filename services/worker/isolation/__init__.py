"""How tasks are kept apart from the worker and from each other: the levels, and the programs that put a child in one.

`launcher`, `sandbox`, `mounts`, `kernel`, `seccomp` and `limits` run in the child before any user code: they import
little, so that a child starts quickly.
"""
