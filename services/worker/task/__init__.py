"""A task in a slot: its input fetched, its processor run in a child, its outputs put."""
