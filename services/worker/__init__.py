"""Runs tasks on the grid: one process a node, with a number of slots (docs/design.md, sections 5 and 7)."""
