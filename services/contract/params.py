"""How a command and a SQL query name their params."""

import re

PLACEHOLDER = re.compile(r"\{(input|output|index|package|(params|inputs|outputs)\.([^{}]+))\}")  # of a command
SQL_PARAM = re.compile(r"\{params\.([A-Za-z_][A-Za-z0-9_]*)\}")
