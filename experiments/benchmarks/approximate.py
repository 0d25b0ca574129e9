"""Approximate methods against exact, and exact beside pgmpy where a model is small enough."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from models import as_double, random_model
from peers import PgmpyBeliefPropagation, PgmpyElimination
from timing import installed, median_ratio, take_turns

from mlcrf.crf import Potentials
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Bethe,
    ConvexBeliefPropagation,
    Exact,
    Gibbs,
    InferenceMethod,
    JunctionTree,
    MeanField,
    Posterior,
    Tap,
    TreeReweighted,
)

METHODS: tuple[InferenceMethod, ...] = (
    MeanField(),
    Tap(),
    Bethe(),
    TreeReweighted(),
    ConvexBeliefPropagation(),
    Gibbs(),
    AnnealedImportanceSampling(),
)
_COUPLINGS = (0.1, 0.5, 1.0)


class _Errors(NamedTuple):
    """Mean absolute errors; None where a method does not say."""

    marginal_error: float
    pairwise_error: float | None
    log_partition_error: float


def approximate_rows(learned: Potentials | None, *, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each method and model, exact among them, then those beside pgmpy."""
    labels, images = (8, 4) if quick else (24, 64)
    turns = 2 if quick else 5
    models = {f"random, couplings {s}": random_model(labels, images, s) for s in _COUPLINGS}
    if learned is not None:
        models["learned"] = learned.rows(torch.arange(min(256, learned.num_images)))
    for name, potentials in models.items():
        yield from _compare(name, potentials, turns)
    if not installed("pgmpy"):
        print("pgmpy is not installed: no rows beside it")
        return
    for labels in (6,) if quick else (10, 12):
        yield from _beside_pgmpy(labels, turns)


def _compare(name: str, potentials: Potentials, turns: int) -> list[dict[str, Any]]:
    """Time and mean absolute errors against exact in float64, each method on the whole batch."""
    truth = Exact(pairwise_marginals=True)(as_double(potentials))
    methods = {method.name: method for method in (Exact(), *METHODS)}
    seconds = take_turns(
        {key: lambda chosen=method: chosen(potentials) for key, method in methods.items()},
        turns=turns,
    )
    rows = []
    for key, method in methods.items():
        posterior = _with_pairs(method)(potentials)
        rows.append(
            {
                "method": key,
                "model": name,
                "labels": potentials.num_labels,
                "images": potentials.num_images,
                "ms_per_image": 1e3 * statistics.median(seconds[key]) / potentials.num_images,
                **_errors(posterior, truth)._asdict(),
                "log_partition_kind": str(posterior.log_partition_kind),
                "converged": float(posterior.converged.double().mean()),
            }
        )
    return rows


def _beside_pgmpy(labels: int, turns: int) -> list[dict[str, Any]]:
    """Marginals of all labels, one image after the other, in one thread; building not counted.

    pgmpy's, which is exact too, must agree to 1e-4, float32 against float64.
    """
    potentials = random_model(labels, 4, 0.5)
    truth = Exact(pairwise_marginals=True)(as_double(potentials))
    images = [potentials.rows(slice(n, n + 1)) for n in range(potentials.num_images)]
    peers = {
        name: [make(image) for image in images]
        for name, make in (
            ("pgmpy variable elimination", PgmpyElimination),
            ("pgmpy belief propagation", PgmpyBeliefPropagation),
        )
    }
    for name, models in peers.items():
        found = torch.stack([model.marginals() for model in models])
        worst = float((found - truth.marginals).abs().max())
        assert worst < 1e-4, f"{name} has other marginals: off by {worst:.1e}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = {"exact, one by one": Exact(), "junction-tree, one by one": JunctionTree()}
    seconds = take_turns(
        {
            **{
                name: lambda method=method: [method(image) for image in images]
                for name, method in ours.items()
            },
            "exact": lambda: Exact()(potentials),
            **{
                name: lambda models=models: [model.marginals() for model in models]
                for name, models in peers.items()
            },
        },
        turns=turns,
    )
    torch.set_num_threads(threads)
    errors = {name: _errors(method(potentials), truth) for name, method in ours.items()}
    errors["exact"] = errors["exact, one by one"]
    for name, models in peers.items():
        marginals = torch.stack([model.marginals() for model in models])
        log_partition = torch.stack([model.log_partition() for model in models])
        errors[name] = _Errors(
            _mean_error(marginals, truth.marginals),
            None,
            _mean_error(log_partition, truth.log_partition),
        )
    return [
        {
            "method": name,
            "model": "random, couplings 0.5, small",
            "labels": labels,
            "images": len(images),
            "ms_per_image": 1e3 * statistics.median(seconds[name]) / len(images),
            **errors[name]._asdict(),
            "over_exact_one_by_one": median_ratio(seconds[name], seconds["exact, one by one"]),
        }
        for name in seconds
    ]


def _with_pairs(method: InferenceMethod) -> InferenceMethod:
    """The method with pairwise marginals, where that has to be asked for."""
    if isinstance(method, Exact | Gibbs):
        return replace(method, pairwise_marginals=True)
    return method


def _errors(posterior: Posterior, truth: Posterior) -> _Errors:
    pairs, true_pairs = posterior.pairwise_marginals, truth.pairwise_marginals
    assert true_pairs is not None, "asked for"
    return _Errors(
        _mean_error(posterior.marginals, truth.marginals),
        None if pairs is None else _mean_error(pairs, true_pairs),
        _mean_error(posterior.log_partition, truth.log_partition),
    )


def _mean_error(values: torch.Tensor, truth: torch.Tensor) -> float:
    return float((values.double() - truth).abs().mean())
