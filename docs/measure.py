"""Print size and shape of a checkout as a markdown table: `measure.py [--repo DIR]`."""

import argparse
import ast
import io
import re
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)
BAD_STARTS = ("What", "Which", "How", "Of", "Those", "That", "Whether")
SHARED = 6  # equal lines in a row that count as a duplicate
SPACING = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Trees = dict[PurePosixPath, ast.Module]


def measure(repo: Path) -> dict[str, object]:
    """Return each figure of the table by its name."""
    texts = read_modules(repo / "mlcrf")
    trees = {path: ast.parse(text) for path, text in texts.items()}
    tests = read_modules(repo / "tests")
    kinds = sum((classify_lines(texts[path], trees[path]) for path in texts), Counter[str]())
    parameters, lengths = [], []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, FUNCTIONS) and path.parts[0] == "cli":
                parameters.append(len(node.args.args) + len(node.args.kwonlyargs))
            elif isinstance(node, FUNCTIONS) and node.end_lineno:
                lengths.append(node.end_lineno - node.lineno + 1)
    named = [path for path in texts if not path.stem.startswith("__")]
    untested = [path for path in named if path.with_name(f"test_{path.name}") not in tests]
    docstrings = [text for tree in trees.values() for _, text in find_docstrings(tree)]
    starts = sum(text.split(maxsplit=1)[0].rstrip(",:;.") in BAD_STARTS for text in docstrings)
    return {
        "modules": len(texts),
        "modules under 60 lines": sum(text.count("\n") < 60 for text in texts.values()),
        "modules without a test file of their name": f"{len(untested)} of {len(named)}",
        "lines of mlcrf/": kinds.total(),
        **{f"- {kind}": kinds[kind] for kind in ("code", "docstrings", "comments", "blank")},
        "lines of tests/": sum(text.count("\n") for text in tests.values()),
        "functions over 40 lines, outside cli/": sum(lines > 40 for lines in lengths),
        "functions over 80 lines, outside cli/": sum(lines > 80 for lines in lengths),
        "tests for the kind of an image (isinstance, case)": count_kind_tests(trees),
        "parameters of the longest command": max(parameters),
        "options of the longest --help": longest_help(repo / "docs" / "cli.md"),
        "docstrings": len(docstrings),
        f"- that begin with {', '.join(BAD_STARTS[:-1])} or {BAD_STARTS[-1]}": starts,
        f"places of {SHARED} or more lines that stand elsewhere too": count_repeats(texts),
        "imports against the layers": count_upward_imports(repo / "pyproject.toml", trees),
    }


def read_modules(folder: Path) -> dict[PurePosixPath, str]:
    """Return the text of each Python file below a folder."""
    files = sorted(folder.rglob("*.py"))
    return {PurePosixPath(f.relative_to(folder)): f.read_text(encoding="utf-8") for f in files}


def classify_lines(text: str, tree: ast.Module) -> Counter[str]:
    """Return how many lines are code, docstrings, comments and blank."""
    code, comments, documented = set(), set(), set()
    for node, _ in find_docstrings(tree):
        documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        lines = range(token.start[0], token.end[0] + 1)
        if token.type not in SPACING:
            (comments if token.type == tokenize.COMMENT else code).update(lines)
    code -= documented
    comments -= code | documented
    parts = {"code": len(code), "docstrings": len(documented), "comments": len(comments)}
    return Counter(parts | {"blank": len(text.splitlines()) - sum(parts.values())})


def find_docstrings(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Yield the statement and the text of each docstring that is not empty."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
            yield node.body[0], text


def count_kind_tests(trees: Trees) -> int:
    """Return how often code asks for Path, Stored or a class that mlcrf/images/ defines."""
    rooms = [tree.body for path, tree in trees.items() if path.parts[0] == "images"]
    kinds = {node.name for body in rooms for node in body if isinstance(node, ast.ClassDef)}
    asked: list[ast.AST] = []
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            asked.append(node.args[1])
        elif isinstance(node, ast.MatchClass):
            asked.append(node.cls)
    kinds |= {"Path", "Stored"}
    names = ({getattr(part, "id", "") for part in ast.walk(node)} for node in asked)
    return sum(bool(kinds & one) for one in names)


def longest_help(page: Path) -> int:
    """Return the most options that one command's --help shows, --help itself apart."""
    option = re.compile(r"^[\s│*]*(?:-\w, ?)?--(?!help)[a-z]", re.MULTILINE)
    sections = page.read_text(encoding="utf-8").split("\n## ")
    return max(len(option.findall(section)) for section in sections)


def count_repeats(texts: dict[PurePosixPath, str]) -> int:
    """Return the number of maximal runs of lines that are repeated; imports do not count."""
    windows: defaultdict[tuple[str, ...], list[tuple[PurePosixPath, int]]] = defaultdict(list)
    for path, text in texts.items():
        lines = [line.strip() for line in text.splitlines()]
        lines = [line for line in lines if line and not line.startswith(("import ", "from ", "#"))]
        for start in range(len(lines) - SHARED + 1):
            windows[tuple(lines[start : start + SHARED])].append((path, start))
    repeated = {place for places in windows.values() if len(places) > 1 for place in places}
    return sum((path, start - 1) not in repeated for path, start in repeated)


def count_upward_imports(settings: Path, trees: Trees) -> int:
    """Return how many imports go to the same or a higher layer of import-linter's contract."""
    tool = tomllib.loads(settings.read_text(encoding="utf-8"))["tool"]
    layers = tool["importlinter"]["contracts"][0]["layers"]
    level = {name.strip(): at for at, layer in enumerate(layers) for name in layer.split("|")}

    def home(module: str) -> str | None:
        above = [name for name in level if f"{module}.".startswith(f"{name}.")]
        return max(above, key=len, default=None)

    found = 0
    for path, tree in trees.items():
        here = home(".".join(["mlcrf", *path.with_suffix("").parts]))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                there = home(node.module) or home(f"{node.module}.{node.names[0].name}")
                found += bool(here and there and here != there and level[there] <= level[here])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repo", type=Path, default=Path(__file__).parent.parent)
    print("| measure | value |\n|---|---:|")
    for name, value in measure(parser.parse_args().repo).items():
        print(f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |")
