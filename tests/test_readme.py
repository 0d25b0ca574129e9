"""The README's commands, run on a slice of the real photos, and its words against the program."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from tests.mirror import ROOT, make_small_mirror
from tests.program import run_program

README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    """Every `mlcrf ...` line in an indented block, as words, without pipes and comments.

    A line that ends in a backslash goes on in the next.
    """
    whole = README.replace("\\\n", " ")
    lines = re.findall(r"^    (?:.*\| )?(mlcrf .*)$", whole, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def main_job() -> list[list[str]]:
    """The five commands from the download on."""
    everything = commands()
    first = [words[1] for words in everything].index("download")
    return everything[first : first + 5]


def test_readme_has_the_five_commands() -> None:
    """The main job is there, in order."""
    main = ["download", "train", "evaluate", "predict", "plot-correlations"]
    assert [words[1] for words in main_job()] == main


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_options_in_the_readme_exist(words: list[str]) -> None:
    """Each option that the README uses is one that the command's help lists."""
    result = run_program(words[1], "--help")
    assert result.returncode == 0
    for option in (word for word in words if word.startswith("--")):
        assert f"{option} " in result.stdout


def test_links_in_the_readme_lead_somewhere() -> None:
    """Every relative link or picture is a file of the project."""
    targets = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert targets
    assert [link for link in targets if not (ROOT / link).exists()] == []


def test_main_job_on_real_photos(tmp_path: Path) -> None:
    """Download, train, evaluate, predict and plot, as the README has them, on 430 photos."""
    numbers = [*range(1, 271), *range(9001, 9061), *range(10001, 10101)]
    mirror = make_small_mirror(tmp_path / "mirror", numbers)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "lecture_correlation_24.csv").write_bytes(
        (ROOT / "data" / "lecture_correlation_24.csv").read_bytes()
    )
    more = {
        "download": ["--mirror", str(mirror)],
        "train": [
            *("--set", "penalties=[0.3]", "--set", "pairwise_penalties=[0.01]"),
            *("--set", "schedule=joint", "--set", "structure_weights=[1]"),
        ],
        "evaluate": ["--json", "--resamples", "20"],
    }
    printed = {}
    photos = "data/mirflickr25k/mirflickr"
    for line in main_job():
        words = [word.replace("SOME_FOLDER", photos) for word in line]
        result = run_program(*words[1:], *more.get(words[1], []), cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        printed[words[1]] = result.stdout
    record = json.loads(printed["evaluate"])
    assert record["signature"].startswith("data:mirflickr25k-24|split:test|images:100|labels:24|")
    crf, independent = record["models"]["crf"], record["models"]["independent"]
    assert crf["nll"] < independent["nll"]
    assert crf["hamming"] < 0.15  # always the majority answer has 0.158 on the whole test split
    assert len(pd.read_csv(tmp_path / "tags.csv")) == len(numbers)
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert "pairs above 0.1 in size" in printed["plot-correlations"]
