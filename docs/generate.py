"""Write docs/cli.md from the program's own --help, or check that it is up to date."""

import os
import subprocess
import sys
from pathlib import Path

from mlcrf.cli import app

TARGET = Path(__file__).parent / "cli.md"
HEADER = """# The commands

Made from `--help` by `make docs`; `make check` fails when it is out of date.
"""


def make_page() -> str:
    """The help of the program and of each command, as one page."""
    commands = sorted(
        command.name or command.callback.__name__.replace("_", "-")
        for command in app.registered_commands
        if command.callback and not command.hidden
    )
    parts = [HEADER]
    for words in ([], *([name] for name in commands)):
        title = " ".join(["mlcrf", *words])
        parts.append(f"## {title}\n\n```\n{_help(words)}\n```\n")
    return "\n".join(parts)


def _help(words: list[str]) -> str:
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "mlcrf", *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    lines = [
        line.rstrip() for line in result.stdout.replace("python -m mlcrf", "mlcrf").splitlines()
    ]
    return "\n".join(lines).strip()


def main() -> int:
    """Write or check; 1 if the page is out of date."""
    page = make_page()
    if "--check" not in sys.argv:
        TARGET.write_text(page, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == page:
        return 0
    print(f"{TARGET}: differs from --help; run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
