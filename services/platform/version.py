"""The release that this code belongs to: one number for server, client and OpenAPI, in the file VERSION."""

from pathlib import Path

VERSION = (Path(__file__).parents[2] / "VERSION").read_text().strip()
