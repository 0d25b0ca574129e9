"""Exact inference beside the machine's own matrix product."""

import statistics
from collections.abc import Iterator
from typing import Any

import torch
from models import as_double, random_model
from timing import median_ratio, take_turns

from mlcrf.crf import Potentials
from mlcrf.inference import Exact

_IMAGES = {16: 16384, 20: 16384, 24: 4096, 28: 1024}  # four labels more take 16 times longer
_QUICK_IMAGES = {8: 64, 12: 32}
_SQUARES, _QUICK_SQUARES = (4096, 5120), (256,)


def exact_rows(learned: Potentials | None, *, quick: bool) -> Iterator[dict[str, Any]]:
    """One row for each number of labels on a random model, and one on the learned model."""
    for labels, images in (_QUICK_IMAGES if quick else _IMAGES).items():
        yield measure("random, couplings .3", random_model(labels, images, 0.3), quick=quick)
    if learned is not None:
        yield measure("learned", learned, quick=quick)


def measure(name: str, potentials: Potentials, *, quick: bool) -> dict[str, Any]:
    """Marginals with everything summed, as shipped with parts left out, and the gradient.

    Counted as 4 x 2^L operations an image: the kernel of 2^L entries times the half-states of
    either side, a multiplication and an addition each. Errors are against the sum of everything
    in float64.
    """
    images, labels = potentials.unary.shape
    everything, shipped = Exact(leave_out=0), Exact()
    squares = [torch.randn(2, size, size) for size in (_QUICK_SQUARES if quick else _SQUARES)]
    seconds = take_turns(
        {
            "dense": lambda: everything(potentials),
            "shipped": lambda: shipped(potentials),
            "gradient": lambda: _gradient(potentials, shipped),
            **{str(len(s[0])): lambda pair=s: pair[0] @ pair[1] for s in squares},
        },
        turns=2 if quick else 5,
    )
    rates = zip(
        *([2 * n**3 / s for s in seconds[str(n)]] for n in map(_side, squares)), strict=True
    )
    matmul = [max(of_turn) for of_turn in rates]
    operations = 4 * 2**labels * images
    truth, posterior = everything(as_double(potentials)), shipped(potentials)
    assert posterior.error_bound is not None, "an exact method says what it may be off by"
    dense, fast = statistics.median(seconds["dense"]), statistics.median(seconds["shipped"])
    return {
        "model": name,
        "labels": labels,
        "images": images,
        "threads": torch.get_num_threads(),
        "ms_per_image": 1e3 * dense / images,
        "states_per_s": 2**labels * images / dense,
        "matmul_gflops": statistics.median(matmul) / 1e9,
        "share_of_matmul": median_ratio([operations / s for s in seconds["dense"]], matmul),
        "pruned_ms_per_image": 1e3 * fast / images,
        "pruned_speedup": median_ratio(seconds["dense"], seconds["shipped"]),
        "gradient_over_marginals": median_ratio(seconds["gradient"], seconds["shipped"]),
        "error_bound": float(posterior.error_bound.max()),
        "max_error": float((posterior.marginals - truth.marginals).abs().max()),
        "dense_max_error": float((everything(potentials).marginals - truth.marginals).abs().max()),
        "max_log_partition_error": float(
            (posterior.log_partition - truth.log_partition).abs().max()
        ),
    }


def _side(pair: torch.Tensor) -> int:
    return pair.shape[-1]


def _gradient(potentials: Potentials, method: Exact) -> None:
    """The likelihood's gradient for a batch."""
    unary = potentials.unary.clone().requires_grad_()
    pairwise = potentials.pairwise.clone().requires_grad_()
    with torch.enable_grad():
        coupled = Potentials(unary, potentials.edges, pairwise, potentials.rules)
        method(coupled).log_partition.sum().backward()
