"""A task in a slot: fetch its input, run its processor in a child, upload its outputs."""
