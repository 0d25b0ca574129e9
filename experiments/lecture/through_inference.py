"""Gradients through exact, variational and sampled inference by automatic differentiation."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact, MeanField
from mlcrf.inference.gibbs.chains import run_chains
from mlcrf.inference.gibbs.streams import random_states, stream_keys

_LABELS, _SWEEPS = 6, 20


def make_potentials(seed: int = 0, size: float = 0.8) -> Potentials:
    """One image, six labels, all pairs coupled."""
    draw = torch.Generator().manual_seed(seed)
    edges = full_edges(_LABELS)
    unary = torch.randn(1, _LABELS, generator=draw, dtype=torch.float64)
    pairwise = size * torch.randn(len(edges), generator=draw, dtype=torch.float64)
    return Potentials(unary, edges, pairwise)


def exact_gives_expectations() -> dict[str, float]:
    """The slopes of log Z beside expectations by enumeration of all label sets."""
    made = make_potentials()
    unary, pairwise = made.unary.clone().requires_grad_(), made.pairwise.clone().requires_grad_()
    log_z = Exact()(Potentials(unary, made.edges, pairwise)).log_partition.sum()
    of_unary, of_pairwise = torch.autograd.grad(log_z, (unary, pairwise))
    states = torch.cartesian_prod(*[torch.tensor([0, 1])] * _LABELS)[:, None]
    p = made.log_score(states).squeeze(1).softmax(0)
    y = states.squeeze(1).double()
    pairs = y[:, made.edges[:, 0]] * y[:, made.edges[:, 1]]
    return {
        "marginals_error": float((of_unary[0] - p @ y).abs().max()),
        "pairs_error": float((of_pairwise - p @ pairs).abs().max()),
    }


def unrolled_gives_the_gradient_of_what_is_run() -> list[dict[str, Any]]:
    """Cross-entropy of mean field after so many sweeps: AD, central differences, and the CRF's own.

    The last column is how far the direction is from that of the exact likelihood's gradient.
    """
    made, targets = make_potentials(), torch.tensor([[1, 0, 1, 1, 0, 0]])
    rows = []
    for sweeps in (1, 3, 10, 50):
        method = MeanField(max_sweeps=sweeps, tolerance=0.0)

        def loss(pairwise: Tensor, method: MeanField = method) -> Tensor:
            marginals = method(Potentials(made.unary, made.edges, pairwise)).marginals
            return F.binary_cross_entropy(marginals, targets.double(), reduction="sum")

        found = _gradient(loss, made.pairwise)
        rows.append(
            {
                "sweeps": sweeps,
                "difference_error": float((found - _differences(loss, made.pairwise)).abs().max()),
                "cosine_with_likelihood": float(
                    torch.cosine_similarity(found, _likelihood_gradient(made, targets), dim=0)
                ),
            }
        )
    return rows


def sampling_slopes() -> list[dict[str, Any]]:
    """Return the change of a sampled mean with a unary, for fixed random numbers.

    Flat almost everywhere: for a small step no sample changes, so the slope is 0, and it is not the
    exact one until the step is so large that many samples change. No sample carries a gradient.
    """
    made = make_potentials()
    unary = made.unary.clone().requires_grad_()
    states = _sample(Potentials(unary, made.edges, made.pairwise), chains=64, seed=0)
    before, exact = _sampled_mean(made, 0.0, seed=0), _exact_slope(made)
    return [
        {
            "step": step,
            "slope_of_samples": (_sampled_mean(made, step, seed=0) - before) / step,
            "exact_slope": exact,
            "samples_carry_a_gradient": states.requires_grad,
        }
        for step in (1e-9, 1e-6, 1e-3, 1e-1)
    ]


def common_random_numbers(repeats: int) -> list[dict[str, Any]]:
    """Finite differences of a sampled mean with the same and with other random numbers."""
    made, rows = make_potentials(), []
    for step in (0.01, 0.1, 0.5):
        both = {"common": [], "independent": []}  # type: dict[str, list[float]]
        for repeat in range(repeats):
            up = _sampled_mean(made, step, seed=2 * repeat)
            for name, seed in (("common", 2 * repeat), ("independent", 2 * repeat + 1)):
                both[name].append((up - _sampled_mean(made, -step, seed=seed)) / (2 * step))
        variance = {name: torch.tensor(found).var().item() for name, found in both.items()}
        rows.append(
            {
                "step": step,
                "exact_difference": (_exact_mean(made, step) - _exact_mean(made, -step))
                / (2 * step),
                **{f"{name}_mean": sum(found) / repeats for name, found in both.items()},
                **{f"{name}_variance": value for name, value in variance.items()},
                "variance_ratio": variance["independent"] / variance["common"],
            }
        )
    return rows


def difference_of_features(chains: Sequence[int]) -> list[dict[str, Any]]:
    """phi(y) - E[phi] with a sampled expectation: its error falls as 1 / sqrt(chains)."""
    made, targets = make_potentials(), torch.tensor([[1, 0, 1, 1, 0, 0]])
    truth, rows = _likelihood_gradient(made, targets), []
    for number in chains:
        y = _sample(made, chains=number, seed=0)[:, 0].double()
        expected = (y[:, made.edges[:, 0]] * y[:, made.edges[:, 1]]).mean(0)
        met = targets[0, made.edges].prod(1).double()
        error = (expected - met - truth).square().mean().sqrt()
        rows.append(
            {"chains": number, "rms_error": float(error), "times_root": float(error) * number**0.5}
        )
    return rows


def _likelihood_gradient(made: Potentials, targets: Tensor) -> Tensor:
    """Return the gradient of -log p(targets) in the couplings."""

    def loss(pairwise: Tensor) -> Tensor:
        potentials = Potentials(made.unary, made.edges, pairwise)
        return (Exact()(potentials).log_partition - potentials.log_score(targets)).sum()

    return _gradient(loss, made.pairwise)


def _sample(potentials: Potentials, *, chains: int, seed: int) -> Tensor:
    """Ends of Gibbs chains, uint8 (chains, 1, L); the same numbers for the same seed."""
    keys = stream_keys(seed, torch.zeros(1, dtype=torch.int64), chains=chains)
    begin = random_states(keys, potentials.num_labels)
    return run_chains(potentials, begin, sweeps=_SWEEPS, seed=seed).states


def _moved(made: Potentials, step: float) -> Potentials:
    """The first label's unary moved."""
    change = torch.zeros_like(made.unary)
    change[:, 0] = step
    return Potentials(made.unary + change, made.edges, made.pairwise)


def _sampled_mean(made: Potentials, step: float, *, seed: int) -> float:
    """Return the mean number of present labels over 256 chains."""
    return float(_sample(_moved(made, step), chains=256, seed=seed).double().sum(-1).mean())


def _exact_mean(made: Potentials, step: float) -> float:
    return float(Exact()(_moved(made, step)).marginals.sum())


def _exact_slope(made: Potentials, step: float = 1e-5) -> float:
    return (_exact_mean(made, step) - _exact_mean(made, -step)) / (2 * step)


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    point = at.clone().requires_grad_()
    return torch.autograd.grad(loss(point), point)[0]


def _differences(loss: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    moved = step * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(loss(at + one) - loss(at - one)) / (2 * step) for one in moved]).detach()
