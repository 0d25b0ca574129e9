"""Documentation that is made by the program is as the program makes it."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from typer.testing import CliRunner

import mlcrf
from mlcrf.cli import app
from mlcrf.version import __version__
from tests.mirror import ROOT


def test_command_reference_is_up_to_date() -> None:
    """`docs/cli.md` equals what `--help` says now."""
    result = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "page",
    ["guarantees.md", "drift.md", "own-training-loop.md", "scikit-learn.md", "own-features.md"],
)
def test_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its blocks one after the other, in an empty folder; each prints something, as commands do."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for kind, code in re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL):
        if kind == "sh":
            for line in code.splitlines():
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, result.output
            continue
        exec(code, names)
        assert capsys.readouterr().out, code


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "lecture").glob("*.py")), ids=lambda p: p.stem
)
def test_notebook_of_the_lecture_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script; its formulas stand beside asserts. `make site` runs it as a notebook."""
    monkeypatch.chdir(ROOT)
    with mpl.rc_context({"backend": "agg"}):
        exec(compile(path.read_text(encoding="utf-8"), path, "exec"), {"__name__": "__main__"})
        assert plt.get_fignums()
        plt.close("all")


def test_reference_has_every_public_name() -> None:
    """The site's page of the Python interface lists what `mlcrf` exports, and nothing else."""
    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: mlcrf\.(\w+)$", page, re.MULTILINE)
    assert sorted([*listed, "__version__"]) == sorted(mlcrf.__all__)


def test_one_version() -> None:
    """Package, project file and citation name the same version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_dependencies_have_lower_bounds_only() -> None:
    """Every dependency has a lower bound and no upper one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert ">=" in requirement
        assert "<" not in requirement and "==" not in requirement


def test_architecture_names_files_that_exist() -> None:
    """Every path of docs/architecture.md leads to a file or folder of the project."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w/.]+/[\w/.]*)`", text)
    assert len(paths) > 50
    roots = (ROOT / "mlcrf", ROOT)
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []
