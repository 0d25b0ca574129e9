"""The examples for containers and clusters are what these take, and name what there is."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mlcrf.synthetic.dataset import make_dataset
from tests.mirror import ROOT
from tests.program import run_program

FOLDER = ROOT / "docs" / "deploy"
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"\bmlcrf ((?:predict|tag|convert|serve) [^\n'\"#;]*)", SCALING)


def containers() -> list[dict[str, object]]:
    found = []
    for file in sorted(FOLDER.glob("*.yaml")):
        for part in yaml.safe_load_all(file.read_text()):
            found += part["spec"].get("template", {}).get("spec", {}).get("containers", [])
    return found


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.name)
def test_kubernetes_takes_it(file: Path) -> None:
    """By its own schema, strictly: a misspelt field is an error."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    parts = list(yaml.safe_load_all(file.read_text()))
    assert parts
    for part in parts:
        kubernetes_validate.validate(part, "1.33", strict=True)
    wrong = parts[0] | {"spec": parts[0]["spec"] | {"parallelisms": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_the_image_is_made_of_what_there_is() -> None:
    """Every file that it copies is in the project, and the extras are those of pyproject.toml."""
    dockerfile_parse = pytest.importorskip("dockerfile_parse")
    parser = dockerfile_parse.DockerfileParser(str(FOLDER / "Dockerfile"))
    steps = [(one["instruction"], one["value"]) for one in parser.structure]
    steps = [one for one in steps if one[0] != "COMMENT"]
    assert steps[0][0] == "FROM" and [one for one, _ in steps if one == "ENTRYPOINT"]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {one for one, _ in steps} <= known
    for place in (word for one, value in steps if one == "COPY" for word in value.split()[:-1]):
        assert (ROOT / place).exists(), place
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"\.\[([\w,]+)\]", (FOLDER / "Dockerfile").read_text())[0].split(","):
        assert f"\n{extra} = [" in project


def test_their_options_exist() -> None:
    """Each command of the examples and of docs/scaling.md is one that the program takes."""
    lines = [" ".join(map(str, one.get("args", ()))) for one in containers()]  # type: ignore[call-overload]
    lines = [line.removeprefix("mlcrf ") for line in lines if line]
    lines += COMMANDS
    assert len(lines) > 5
    for line in lines:
        words = line.split()
        shown = run_program(words[0], "--help").stdout
        for option in (word for word in words if word.startswith("--")):
            assert f"{option} " in shown, line


def test_the_command_for_one_machine(tmp_path: Path) -> None:
    """`xargs` starts every part that is not there; `convert` finds all photos."""
    make_dataset(tmp_path / "drawn", num_images=10, image_size_px=32)
    (tmp_path / "drawn" / "images").rename(tmp_path / "photos")
    command = next(line.strip() for line in SCALING.splitlines() if "xargs" in line)
    command = command.replace("64", "2").replace("-P 4", "-P 2")
    program = f"{shlex.quote(sys.executable)} -m mlcrf predict --engine torch"
    command = command.replace("mlcrf predict", program)
    words = ["predict", "photos", "--out", "parts", "--shard", "2/2", "--engine", "torch"]
    assert run_program(*words, cwd=tmp_path).returncode == 0
    (there,) = (tmp_path / "parts").iterdir()
    before = there.stat().st_mtime_ns
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    parts = sorted((tmp_path / "parts").iterdir())
    assert [part.name for part in parts] == [f"part-0000{k}-of-00002.parquet" for k in (1, 2)]
    assert there.stat().st_mtime_ns == before
    assert run_program("convert", "parts", "--out", "tags.csv", cwd=tmp_path).returncode == 0
    assert len(pd.read_csv(tmp_path / "tags.csv")) == 10
