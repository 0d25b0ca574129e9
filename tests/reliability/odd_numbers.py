"""Numbers that are none, and how a command has to refuse them."""

import math
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mlcrf.atomic import read_sealed
from mlcrf.checkpoint import STATE
from mlcrf.choices import EngineName, Finetune
from mlcrf.training.extraction import Environment

VALUES = {"nan": math.nan, "inf": math.inf, "minus-inf": -math.inf}
QUICK: dict[str, Any] = {
    "backbone": "tiny",
    "finetune": Finetune.ALL,
    "epochs": 2,
    "batch_size": 12,  # two steps an epoch
    "penalties": (0.3,),
    "pairwise_penalties": (0.01,),
    "structure_weights": (1,),
    "schedule": "joint",
    "steps": 10,
}
Patch = pytest.MonkeyPatch
TORCH = Environment(engine=EngineName.TORCH)
ENGINE = ["--engine", "torch"]
Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


def assert_says_what_to_do(message: str) -> None:
    """One line, with a remedy, or with where the fault stands or what is there instead."""
    assert len(message.splitlines()) == 1
    remedies = (
        r"lower|raise|try|choose|train|leave out|remove|mend|fix|set|add|needed|keep|or use|say"
        r"|expected"
    )
    remedy = rf"(; |\. |, ).*\b({remedies})|is on line \d+|\(train \d+, validation \d+, test"
    assert re.search(remedy, message), message


def assert_finite(folder: Path) -> None:
    """No file there holds a number that is none: weights, what a run resumes from, tables."""
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            check_finite(load_file(path))
        elif path.name == STATE:
            content = read_sealed(path)
            assert content is not None
            check_finite(torch.load(BytesIO(content), weights_only=True))
        elif path.suffix == ".sqlite":
            for vector in kept_vectors(path).values():
                assert np.isfinite(vector).all()
        elif path.suffix in (".csv", ".json", ".jsonl"):
            words = re.split(r"[^a-z0-9+-]+", path.read_text().lower())
            assert not {"nan", "inf", "-inf", "infinity", "-infinity"} & set(words), path


def check_finite(value: Any) -> None:
    match value:
        case Tensor():
            assert bool(torch.isfinite(value).all())
        case float():
            assert math.isfinite(value)
        case dict():
            check_finite(list(value.values()))
        case list() | tuple():
            for one in value:
                check_finite(one)


def kept_vectors(path: Path) -> dict[bytes, Any]:
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT digest, vector FROM features").fetchall()
    return {digest: np.frombuffer(vector, "<f4") for digest, vector in rows}


def assert_refused(outcome: Outcome, reason: str) -> None:
    """Status 1 and one line that begins with `error: `."""
    status, _, errors = outcome
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert status == 1 and len(lines) == 1, errors
    assert errors.splitlines()[-1] == lines[0]
    assert re.search(reason, lines[0]), lines[0]
    assert_says_what_to_do(lines[0])


@dataclass
class Fault:
    """A value that comes in the place of a number, once.

    Attributes:
        at: at which of the moments where it could.
        moments: how many there were.
    """

    value: float
    at: int = 1
    moments: int = 0

    def is_due(self) -> bool:
        self.moments += 1
        return self.moments == self.at

    def put(self, tensor: Tensor) -> None:
        with torch.no_grad():
            tensor[(0,) * tensor.ndim] = self.value


Spoil = Callable[[Patch, Fault], None]
