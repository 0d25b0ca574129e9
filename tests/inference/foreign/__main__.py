"""Print the tables of `docs/inference.md`, or renew them in a page that has their marks."""

import sys
from pathlib import Path

from tests.inference.foreign.tables import fill, format_answers, format_methods


def main(arguments: list[str]) -> None:
    tables = {"answers": format_answers(), "methods": format_methods()}
    if not arguments:
        sys.stdout.write("\n".join(tables.values()))
        return
    page = Path(arguments[0])
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = fill(text, name, table)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
