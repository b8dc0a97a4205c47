"""Put the files that templates include into them: `make templates`.

CloudFormation includes nothing that is not in S3 already, and the templates must be deployable as they are. So what
stands between `# include FILE` and `# end of FILE` is FILE, as far in as these lines.
"""

import re
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
TEMPLATES = tuple(HERE / f"{name}.yaml" for name in ("network", "grid", "pool"))

_INCLUDE = re.compile(r"^(?P<indent> *)# include (?P<file>\S+)\n.*?^ *# end of (?P=file)$", re.MULTILINE | re.DOTALL)


def included(template: str) -> str:
    """The template with what it includes; raises OSError if a file can't be read."""
    return _INCLUDE.sub(_place, template)


def without_comments(lines: Sequence[str]) -> list[str]:
    """Lines of a shell script that are more than a comment."""
    return [line for line in lines if not line.lstrip().startswith("# ")]


def _place(match: re.Match[str]) -> str:
    indent, file = match["indent"], match["file"]
    lines = (HERE / file).read_text().splitlines()
    if file.endswith(".sh"):  # there is a limit for templates, and for what a node gets
        lines = without_comments(lines)
    body = "".join(f"{indent}{line}\n" if line else "\n" for line in lines)
    return f"{indent}# include {file}\n{body}{indent}# end of {file}"


if __name__ == "__main__":
    for path in TEMPLATES:
        path.write_text(included(path.read_text()))
