"""Writes the last section of docs/architecture.md, one sentence a file, from the modules' docstrings.

`python scripts/files.py` rewrites it; with `--check` it exits with 1 if the page is not up to date.
"""

import ast
import re
import sys
from pathlib import Path

PAGE = Path("docs/architecture.md")
HEADING = "## File by file\n"
PACKAGES = ("coordinator", "worker", "kernels")


def section() -> str:
    """The heading and what stands below it."""
    lines = [HEADING, "Each sentence is the first one of the file's docstring (`make generate` copies them).\n"]
    for package in PACKAGES:
        lines.append(f"### {package}/\n")
        for path in sorted(Path(package).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
            sentence = re.split(r"(?<=[.])\s", docstring.replace("\n", " "))[0]
            name = str(path.relative_to(package))
            if name == "__init__.py":
                lines[-1] += f"\n{sentence}\n"
            else:
                lines.append(f"- `{name}`: {sentence}")
        lines[-1] += "\n"
    return "\n".join(lines).rstrip() + "\n"


page = PAGE.read_text()
written = page[: page.index(HEADING)] + section()
if sys.argv[1:] == ["--check"]:
    if page != written:
        sys.exit(f"{PAGE} is not up to date: run `make generate`")
else:
    PAGE.write_text(written)
