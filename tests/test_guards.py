"""Guards of data and results are errors, not `assert`, which `python -O` leaves out."""

import ast
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mlcrf.backbones.feature_matrix import MappedMatrix, write_shard
from mlcrf.backbones.registry import find_spec, make_backbone
from mlcrf.errors import BackboneError, DataError, LabelsError, PotentialsError
from mlcrf.inference import Exact
from mlcrf.latent import SceneSum
from mlcrf.model import LabelCrf
from mlcrf.synthetic.planted import make_planted_crf
from mlcrf.training.members import Members
from mlcrf.training.stepping import SharedBatchNorm
from tests.making import make_potentials

PACKAGE = Path(__file__).parent.parent / "mlcrf"
PLANTED = make_planted_crf()
COUPLED = PLANTED.pairwise_matrix
ROWS = MappedMatrix([np.zeros((4, 2), np.float32)])

UNDER_O = """
import numpy as np, torch
from mlcrf.backbones.feature_matrix import MappedMatrix
from mlcrf.crf import Potentials
from mlcrf.errors import PotentialsError
from mlcrf.synthetic.planted import PlantedCrf, make_planted_crf
from mlcrf.training.finite import require_finite

assert False, "is left out"
planted, none = make_planted_crf(), torch.zeros((0, 2), dtype=torch.int64)
nan = torch.full((1, 2), torch.nan)
for refused in (
    lambda: Potentials(nan, none, torch.zeros(0)),
    lambda: PlantedCrf(planted.labels, planted.bias * np.nan, planted.pairwise_matrix, ()),
    lambda: require_finite("part", {"marginals": nan}),
    lambda: MappedMatrix([np.zeros((4, 2), np.float32)])[::2],
):
    try:
        refused()
    except Exception as error:
        print(type(error).__name__)
"""


def narrows(test: ast.expr) -> bool:
    """Whether an `assert` only tells the type checker what a value cannot be."""
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(narrows(value) for value in values)
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
        case ast.Call(func=ast.Name(id="isinstance")):
            return True
    return False


def test_an_assert_of_the_package_only_narrows_a_type() -> None:
    """Any other would vanish under -O: raise an error of `mlcrf.errors` instead."""
    trees = [(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]
    asserts = [
        (path, node)
        for path, tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert len(trees) > 200 and asserts
    found = [f"{path}:{node.lineno}" for path, node in asserts if not narrows(node.test)]
    assert found == []


def test_guards_hold_under_python_o() -> None:
    """NaN and wrong shapes are refused by an interpreter that runs no `assert`."""
    run = subprocess.run(
        [sys.executable, "-O", "-c", UNDER_O],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.stderr == ""
    assert run.stdout.split() == ["PotentialsError", "PotentialsError", "RunError", "ValueError"]


def take_log_odds_of_a_hidden_layer() -> LabelCrf:
    hidden = LabelCrf(3, 2, hidden=4)
    return Members(hidden, np.zeros((0, 2), np.float32)).beneath(hidden)


@pytest.mark.parametrize(
    ("refused", "error", "text"),
    [
        (lambda: replace(PLANTED, bias=PLANTED.bias[1:]), PotentialsError, "expected bias"),
        (lambda: replace(PLANTED, bias=PLANTED.bias * np.nan), PotentialsError, "NaN"),
        (lambda: replace(PLANTED, pairwise_matrix=np.triu(COUPLED)), PotentialsError, "symmetric"),
        (lambda: replace(PLANTED, pairwise_matrix=np.eye(12)), PotentialsError, "diagonal"),
        (lambda: replace(PLANTED, hard=("dgo",)), LabelsError, "did you mean 'dog'"),
        (lambda: ROWS[::2], ValueError, "step 1, got 2"),
        (
            lambda: make_backbone(find_spec("lite0+lite2"), pretrained=False)(
                torch.zeros(1, 8, 8, 3)
            ),
            BackboneError,
            "run each of its parts",
        ),
        (
            lambda: SharedBatchNorm(2).eval()(torch.zeros(3, 2)),
            ValueError,
            r"\(N, C, H, W\), got \(3, 2\)",
        ),
        (take_log_odds_of_a_hidden_layer, ValueError, "hidden layer"),
        (lambda: SceneSum(Exact())(make_potentials()), PotentialsError, "ScenePotentials"),
    ],
)
def test_each_guard(refused: Callable[[], object], error: type[Exception], text: str) -> None:
    """Its message says what was expected."""
    with pytest.raises(error, match=text):
        refused()


def test_a_shard_of_too_few_rows_is_not_written(tmp_path: Path) -> None:
    """Nothing is left of it."""
    with pytest.raises(DataError, match="expected 3 rows to write, got 2"):
        write_shard(tmp_path / "shard.npy", [np.zeros((2, 2), np.float32)], (3, 2))
    assert list(tmp_path.iterdir()) == []
