"""Change the CRF core here and there, and see whether its tests notice.

    python tests/reliability/mutants.py [--count 400] [--seed 0] [--part 1/2]

draws that many of all small changes (mutants) that Cosmic Ray can make to `mlcrf/crf`,
`inference`, `objectives`, `decoding` and `latent`: a number more or less by one, another operator
or comparison, a condition turned round, a loop not entered. Left out are changes that never decide
a result: annotations, decorators of numba, `frozen` of a dataclass, the mark of keyword-only
arguments, and the constants that say how much is worked on at a time. For each the tests that run
the changed line are started, the quickest first, up to a minute of them; for compiled functions,
whose lines cannot be followed, those of the modules that call them. Results are kept in
`mutants.json` beside this file; `--again` tries once more what survived. Takes an hour on two
cores.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import coverage
import numba  # loaded once, before the processes part
import pytest
import scipy.optimize  # noqa: F401
import torch
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parent.parent.parent
CORE = ("crf", "inference", "objectives", "decoding", "latent")
TESTS = [*(f"tests/{part}" for part in CORE), "tests/test_model.py"]
KEPT = Path(__file__).with_suffix(".json")
_OPERATORS = [
    *("ReplaceBinaryOperator_" + pair for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul")),
    *("ReplaceBinaryOperator_" + pair for pair in ("FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul")),
    *("ReplaceBinaryOperator_" + pair for pair in ("BitAnd_BitOr", "BitOr_BitAnd", "BitXor_BitOr")),
    *("ReplaceBinaryOperator_" + pair for pair in ("LShift_RShift", "RShift_LShift")),
    *("ReplaceComparisonOperator_" + pair for pair in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot")),
    *("ReplaceComparisonOperator_" + pair for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")),
    *("ReplaceComparisonOperator_" + pair for pair in ("Lt_Gt", "LtE_GtE", "Gt_Lt", "GtE_LtE")),
    *("ReplaceComparisonOperator_IsNot_Is", "ReplaceUnaryOperator_Delete_USub"),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_Invert", "AddNot"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
]
_AT_ONCE = r"_(AT_ONCE|BLOCK\w*|CHUNK_ENTRIES|ENTRIES|KEEP|PART|TILES)"
_NO_CHANGE = ("same result", "only time or memory")  # how reasons of such survivors begin
_TESTS_S = 60.0  # of tests for one mutant
_FEW = 10  # tests: a line that no more run is one that runs on import, or is compiled
_START_S = 90.0  # to import and compile


@dataclass(frozen=True)
class Mutant:
    """A change: the how-manieth place in a module that an operator can change."""

    module: str
    operator: str
    place: int
    line: int
    before: str
    after: str

    def source(self) -> str:
        """The module with the change."""
        operator = plugins.get_operator(f"core/{self.operator}")()
        changed = mutate_code((ROOT / self.module).read_text(), operator, self.place)
        assert changed is not None
        return changed


class _Plain(ast.NodeTransformer):
    """Leaves away what never decides a result."""

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.args, node.posonlyargs = [*node.posonlyargs, *node.args, *node.kwonlyargs], []
        node.defaults, node.kw_defaults = [*node.defaults, *filter(None, node.kw_defaults)], []
        node.kwonlyargs = []
        return self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        return None if node.arg == "frozen" else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = node.targets[0]
        at_once = isinstance(target, ast.Name) and re.fullmatch(_AT_ONCE, target.id)
        return None if at_once else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        node.decorator_list = [one for one in node.decorator_list if "jit" not in ast.unparse(one)]
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def _meaning(source: str) -> str | None:
    try:
        return ast.dump(_Plain().visit(ast.parse(source)))
    except SyntaxError:
        return None


def draw(count: int, seed: int) -> list[Mutant]:
    """So many of all of them, each as likely as any other."""
    places = []
    for part in CORE:
        for path in sorted((ROOT / "mlcrf" / part).rglob("*.py")):
            nodes = list(ast_nodes(get_ast(path.read_text())))
            for name in _OPERATORS:
                operator = plugins.get_operator(f"core/{name}")()
                found = sum(len(list(operator.mutation_positions(node))) for node in nodes)
                places += [(path, name, place) for place in range(found)]
    random.Random(seed).shuffle(places)
    drawn: list[Mutant] = []
    for path, name, place in places:
        if len(drawn) == count:
            break
        source = path.read_text()
        changed = mutate_code(source, plugins.get_operator(f"core/{name}")(), place)
        if changed is not None and _meaning(changed) not in (None, _meaning(source)):
            drawn.append(_described(path, name, place, source, changed))
    return drawn


def _described(path: Path, name: str, place: int, source: str, changed: str) -> Mutant:
    lines, others = source.splitlines(), changed.splitlines()
    line = next(
        at for at, pair in enumerate(zip(lines, others, strict=False)) if pair[0] != pair[1]
    )
    module = str(path.relative_to(ROOT))
    return Mutant(module, name, place, line + 1, lines[line].strip(), others[line].strip())


class _Follower:
    """Notes which test runs which line, and how long each takes."""

    def __init__(self, cover: coverage.Coverage) -> None:
        self.cover, self.seconds = cover, dict[str, float]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.cover.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began


@dataclass
class Followed:
    """Tests by line of each module, and seconds by test."""

    tests: dict[str, dict[int, list[str]]]
    seconds: dict[str, float]

    def of(self, mutant: Mutant) -> list[str]:
        """The tests to try, the line's own and quickest first, up to a minute of them."""
        found = own = set(self.tests[mutant.module].get(mutant.line, ()))
        seen, reach = {mutant.module}, [mutant.module]
        while len(found) < _FEW and reach:
            found = found.union(*(names for one in reach for names in self.tests[one].values()))
            reach = [one for one in self.tests if one not in seen and _imports(one, reach)]
            seen.update(reach)
        chosen, total = [], 0.0
        for name in sorted(found, key=lambda one: (one not in own, self.seconds[one])):
            total += self.seconds[name]
            if chosen and total > _TESTS_S:
                break
            chosen.append(name)
        return chosen


def _imports(module: str, others: list[str]) -> bool:
    text = (ROOT / module).read_text()
    return any(f"from {one[:-3].replace('/', '.')} import" in text for one in others)


def follow() -> Followed:
    """Run the tests of the core once, all of which must pass."""
    cover = coverage.Coverage(data_file=None, source=[str(ROOT / "mlcrf")])
    follower = _Follower(cover)
    cover.start()
    status = pytest.main(["-q", "-p", "no:cacheprovider", *TESTS], plugins=[follower])
    cover.stop()
    if status != 0:
        raise SystemExit("tests fail without any change")
    data = cover.get_data()
    tests: dict[str, dict[int, list[str]]] = {}
    for part in CORE:
        for path in (ROOT / "mlcrf" / part).rglob("*.py"):
            by_line = data.contexts_by_lineno(str(path))
            named = {line: [one for one in names if one] for line, names in by_line.items()}
            tests[str(path.relative_to(ROOT))] = {
                line: names for line, names in named.items() if names
            }
    return Followed(tests, follower.seconds)


def judge(mutant: Mutant, tests: list[str], place: Path) -> str:
    """`killed`, `slow` (killed for taking too long) or `survived`; `place`: a copy to change."""
    target = place / mutant.module
    target.write_text(mutant.source())
    child = os.fork()
    if child == 0:
        _try(tests, place, compiled="jit" in target.read_text())
    status = _wait(child, _START_S + 3 * _TESTS_S)
    shutil.copy2(ROOT / mutant.module, target)
    return "slow" if status is None else "killed" if status else "survived"


def _try(tests: list[str], place: Path, *, compiled: bool) -> None:
    """In a process of its own: the tests against the changed core; ends the process."""
    os.setsid()
    os.chdir(place)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.path.insert(0, str(place))
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as fresh:
        if compiled:  # else callers would keep the unchanged function that they have compiled in
            numba.config.CACHE_DIR = fresh
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests])
    os._exit(int(status))


def _wait(child: int, longest_s: float) -> int | None:
    end = time.monotonic() + longest_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _copy(folder: str) -> Path:
    """Return this process's copy of the project, in which it judges."""
    place = Path(folder) / str(os.getpid())
    if not place.exists():
        ignored = shutil.ignore_patterns("reliability", ".hypothesis")
        for name in ("mlcrf", "tests"):
            shutil.copytree(ROOT / name, place / name, ignore=ignored)
        shutil.copy2(ROOT / "pyproject.toml", place)
    return place


def _judged(case: tuple[Mutant, list[str], str]) -> dict[str, Any]:
    mutant, tests, folder = case
    return asdict(mutant) | {"outcome": judge(mutant, tests, _copy(folder))}


def _unchanged(case: tuple[list[str], str]) -> int:
    """Return the status of tests in a copy without any change, which must be 0."""
    tests, folder = case
    child = os.fork()
    if child == 0:
        _try(tests, _copy(folder), compiled=False)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _followed() -> Followed:
    """In a process of its own: it imports the core, which those that judge must not have."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(follow).result()


def page(rows: list[dict[str, Any]]) -> str:
    """What came out, as `mutants.md`."""
    left = [row for row in rows if row["outcome"] == "survived"]
    none = [row for row in left if row["reason"].startswith(_NO_CHANGE)]
    noticed, telling = len(rows) - len(left), len(rows) - len(none)
    lines = [
        "# Mutants of the CRF core",
        "",
        f"{len(rows)} small changes to `mlcrf/crf`, `inference`, `objectives`, `decoding` and "
        f"`latent`, drawn at random by `make mutants`. Tests notice {noticed} of them. {len(none)} "
        "of the others change no result, or only time and memory; without these, tests notice "
        f"{noticed / telling:.0%} of {telling}. The changes that no test notices, and why:",
        "",
        "| where | line | changed to | reason |",
        "|---|---|---|---|",
    ]
    for row in sorted(left, key=lambda row: (row["reason"], row["module"], row["line"])):
        cells = [f"`{row[key] or '@'}`".replace("|", "\\|") for key in ("before", "after")]
        where = row["module"].removeprefix("mlcrf/")
        lines.append(f"| {where} | {cells[0]} | {cells[1]} | {row['reason']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, judge each, and keep what came out as it comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="try anew what survived")
    parser.add_argument("--page", action="store_true", help="only write mutants.md anew")
    options = parser.parse_args()
    rows = json.loads(KEPT.read_text()) if KEPT.exists() else []
    if not options.page:
        kept = {_change(row): row for row in rows}
        drawn = draw(options.count, options.seed)
        rows = [kept[one] for one in map(_change, map(asdict, drawn)) if one in kept]
        left = options.again and "survived"
        done = {_change(row) for row in rows if row["outcome"] != left}
        wanted = [one for one in drawn if _change(asdict(one)) not in done]
        followed = _followed()
        with tempfile.TemporaryDirectory() as folder, get_context("fork").Pool() as pool:
            cases = [(one, followed.of(one), folder) for one in wanted]
            quick = sorted(followed.seconds, key=followed.seconds.__getitem__)[:100]
            if pool.apply(_unchanged, ((quick, folder),)) != 0:
                raise SystemExit("tests fail in a copy without any change")
            for number, row in enumerate(pool.imap_unordered(_judged, cases), 1):
                before = kept.get(_change(row), {})
                rows = [one for one in rows if _change(one) != _change(row)]
                rows.append(row | {"reason": before.get("reason", "")})
                KEPT.write_text(json.dumps(rows, indent=1) + "\n")
                print(f"{number} of {len(cases)}: {row}", flush=True)
    KEPT.with_suffix(".md").write_text(page(rows))
    print(Counter(row["outcome"] for row in rows))


def _change(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("module", "operator", "place", "before", "after"))


if __name__ == "__main__":
    main()
