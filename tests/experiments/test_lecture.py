"""The lecture's formulas and claims, checked as its experiment checks them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of all of it writes."""
    out = tmp_path_factory.mktemp("lecture") / "results.json"
    command = [sys.executable, "-m", "experiments.lecture.run", "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "| formula |" in done.stdout
    return json.loads(out.read_text(encoding="utf-8"))


def test_slips_fail_and_formulas_put_right_hold(result: dict[str, Any]) -> None:
    """Every formula that is printed wrong is off by far more than finite differences are."""
    rows = result["formulas"]
    assert len(rows) == 10
    for row in rows:
        if row["put_right"] is None:
            assert row["printed_error"] < 1e-7, row["formula"]
        else:
            assert row["printed_error"] > 1e-2, row["formula"]
            assert row["right_error"] < 1e-7, row["formula"]
    assert sum(row["put_right"] is not None for row in rows) == 7


def test_messages_give_gradients_on_any_graph(result: dict[str, Any]) -> None:
    """Those of autograd to rounding, and of finite differences, with skips and several outputs."""
    rows = result["messages"]
    assert {row["outputs"] for row in rows} == {1, 3}
    assert max(row["edges"] for row in rows) > max(row["layers"] for row in rows)
    for row in rows:
        assert row["autograd_error"] < 1e-12
        assert row["difference_error"] < 1e-6


def test_modes_agree(result: dict[str, Any]) -> None:
    """Forward products make the gradient, and forward over reverse the Hessian's products."""
    for error in result["modes_agree"][0].values():
        assert error < 1e-12
    deep, shallow = result["modes_cost"][-1], result["modes_cost"][-2]
    assert deep["depth"] > shallow["depth"]
    assert deep["remembered_kb"] > shallow["remembered_kb"]


def test_graphs_by_belief_propagation(result: dict[str, Any]) -> None:
    """Log Z and its slopes are those of enumeration from a chain to all pairs."""
    assert [row["treewidth"] for row in result["graphs"]] == [1, 1, 2, 3, 11]
    for row in result["graphs"]:
        assert max(row["log_z_error"], row["marginals_error"], row["pairs_error"]) < 1e-9
    errors = [row["rms_error"] for row in result["graphs_gibbs"]]
    assert errors[-1] < errors[0] / 2


def test_a_neural_field_is_best(result: dict[str, Any]) -> None:
    """Where evidence is not linear and labels are coupled, each part alone is not enough."""
    nll = {row["model"]: row["nll"] for row in result["fields"]}
    best = nll.pop("neural, chain (neural field)")
    assert all(best < other - 0.1 for other in nll.values())


def test_differentiation_through_inference(result: dict[str, Any]) -> None:
    """Exact gives expectations, unrolling the gradient of what is run, samples none."""
    assert max(result["through_exact"][0].values()) < 1e-12
    for row in result["through_unrolled"]:
        assert row["difference_error"] < 1e-6
    tiny = result["through_samples"][0]
    assert not tiny["samples_carry_a_gradient"]
    assert tiny["slope_of_samples"] == 0
    assert abs(tiny["exact_slope"]) > 0.01
    for row in result["common_numbers"]:
        assert row["variance_ratio"] > 2
    first, last = result["features"][0], result["features"][-1]
    assert last["rms_error"] < first["rms_error"]
