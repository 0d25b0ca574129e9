"""Count the images that an approximate method calls converged although they are wrong.

    python -m experiments.honesty.run [--quick] [--version NAME]

Models of 14 and 16 labels, which `Exact` enumerates, and chains of 200, whose couplings go from
weak to so strong that beliefs have several modes. Figures of other versions of the code stay in
the file, so that a change is seen beside what was before it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments import frame
from experiments.frame import Rows
from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Bethe,
    Exact,
    Gibbs,
    InferenceMethod,
    JunctionTree,
    LogPartitionKind,
    MeanField,
    Posterior,
    Tap,
    TreeReweighted,
)

SEED = 0
LABELS = 14
SIDE = 4  # of the grid
CHAIN = 200
WRONG_MARGINAL = 0.2  # four standard errors at Gibbs' least effective number of samples, 100
WRONG_LOG_Z = 1.0  # nats; four standard errors at the least effective share of chains is 0.9
STANDARD_ERRORS = 4
METHODS: tuple[InferenceMethod, ...] = (
    MeanField(),
    MeanField(parallel=True),
    Tap(),
    Bethe(),
    TreeReweighted(),
    Gibbs(),
    AnnealedImportanceSampling(),
)
Model = Callable[[int, float, torch.Generator], Potentials]


def main() -> None:
    """Draw models, infer by each method, compare with enumeration, and keep the figures."""
    version = {"default": "now", "help": "name of these figures beside those of other code"}
    arguments = frame.read_options(__doc__, "honesty", version=version)
    num_images = 1 if arguments.quick else 50
    kept = frame.earlier(arguments).get("rows", [])
    rows: Rows = [row for row in kept if row["version"] != arguments.version]
    generator = torch.Generator().manual_seed(SEED)
    for name, (make, strengths) in MODELS.items():
        models = [make(num_images, strength, generator) for strength in strengths]
        few = models[0].num_labels <= SIDE**2
        truths = [(Exact() if few else JunctionTree())(one) for one in models]
        for method in METHODS:
            pairs = zip(models, truths, strict=True)
            counts = [_compare(method(potentials), truth) for potentials, truth in pairs]
            about = {"version": arguments.version, "method": method.name, "model": name}
            rows.append(about | {count: _total(counts, count) for count in counts[0]})
    frame.keep(arguments, rows, seed=SEED)
    print(*tables({"rows": rows}).values(), sep="\n\n")


def _compare(posterior: Posterior, truth: Posterior) -> dict[str, Any]:
    """Count images: all, converged, and converged but wrong."""
    converged = posterior.converged
    marginals_off = (posterior.marginals - truth.marginals).abs().amax(-1)
    log_z_off = (posterior.log_partition - truth.log_partition).abs()
    is_estimate = posterior.log_partition_kind is LogPartitionKind.ESTIMATE
    error = getattr(posterior, "log_partition_error", None)
    claimed = torch.zeros_like(log_z_off) if error is None else error
    has_log_z = converged & claimed.isfinite()
    return {
        "images": len(converged),
        "converged": int(converged.sum()),
        "wrong_marginals": int((converged & (marginals_off > WRONG_MARGINAL)).sum()),
        "wrong_log_z": int((has_log_z & (log_z_off > WRONG_LOG_Z)).sum()) if is_estimate else None,
        "beyond_error": None
        if error is None
        else int((converged & (log_z_off > STANDARD_ERRORS * claimed + 1e-6)).sum()),
        "right_but_unconverged": int((~converged & (marginals_off <= WRONG_MARGINAL)).sum()),
    }


def _spins(num_images: int, edges: Tensor, couplings: Tensor, draw: torch.Generator) -> Potentials:
    """Labels as spins of -1 and 1 with random fields of about 0.3: couplings (N, E) of spins."""
    num_labels = int(edges.max()) + 1
    pairwise = 4 * couplings
    fields = 0.3 * torch.randn(num_images, num_labels, generator=draw, dtype=torch.float64)
    brought = torch.zeros_like(fields)
    for end in edges.T:
        brought.index_add_(1, end, pairwise)
    return Potentials(2 * fields - brought / 2, edges, pairwise)


def ferromagnet(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """All labels attract each other; beyond a strength of 1 there are two modes."""
    edges = full_edges(LABELS)
    couplings = torch.full((num_images, len(edges)), strength / (LABELS - 1), dtype=torch.float64)
    return _spins(num_images, edges, couplings, draw)


def spin_glass(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """Couplings of either sign between all labels; beyond 1 there are many modes."""
    edges = full_edges(LABELS)
    couplings = torch.randn(num_images, len(edges), generator=draw, dtype=torch.float64)
    return _spins(num_images, edges, strength / math.sqrt(LABELS) * couplings, draw)


def frustrated_grid(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """A square grid whose couplings have one size and either sign."""
    site = torch.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    right = torch.stack([site[:, :-1].flatten(), site[:, 1:].flatten()], 1)
    edges = torch.cat([right, torch.stack([site[:-1].flatten(), site[1:].flatten()], 1)])
    signs = torch.randint(2, (num_images, len(edges)), generator=draw) * 2.0 - 1
    return _spins(num_images, edges, strength * signs.double(), draw)


def exclusive_labels(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """Labels that are likely alone and exclude each other: about one of them is present."""
    edges = full_edges(LABELS)
    unary = 2 + torch.randn(num_images, LABELS, generator=draw, dtype=torch.float64)
    couplings = torch.full((num_images, len(edges)), -strength, dtype=torch.float64)
    return Potentials(unary, edges, couplings)


def rare_labels(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """Labels of tagged photos: each rare on its own, with couplings of either sign."""
    edges = full_edges(LABELS)
    unary = -3 + 1.5 * torch.randn(num_images, LABELS, generator=draw, dtype=torch.float64)
    couplings = torch.randn(num_images, len(edges), generator=draw, dtype=torch.float64)
    return Potentials(unary, edges, strength * couplings)


def chain(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """A path of 200 labels: easily mixed, but no sample comes twice."""
    first = torch.arange(CHAIN - 1)
    edges = torch.stack([first, first + 1], 1)
    couplings = torch.randn(num_images, len(edges), generator=draw, dtype=torch.float64)
    return _spins(num_images, edges, strength * couplings, draw)


def any_labels(num_images: int, strength: float, draw: torch.Generator) -> Potentials:
    """Unaries and couplings of either sign."""
    edges = full_edges(LABELS)
    unary = 2 * torch.randn(num_images, LABELS, generator=draw, dtype=torch.float64)
    couplings = torch.randn(num_images, len(edges), generator=draw, dtype=torch.float64)
    return Potentials(unary, edges, strength * couplings)


MODELS: dict[str, tuple[Model, tuple[float, ...]]] = {
    "ferromagnet": (ferromagnet, (0.5, 1.0, 1.5, 3.0, 10.0)),
    "spin glass": (spin_glass, (0.3, 1.0, 2.0, 5.0)),
    "frustrated grid": (frustrated_grid, (0.3, 1.0, 3.0)),
    "exclusive labels": (exclusive_labels, (1.0, 5.0, 30.0)),
    "rare labels": (rare_labels, (0.5, 1.0, 2.0)),
    "any labels": (any_labels, (0.5, 2.0, 8.0)),
    "chain": (chain, (0.1, 0.5)),
}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Tables in Markdown of a results.json."""
    rows: Rows = results["rows"]
    return {"methods": _by(rows, ("method",)), "models": _by(rows, ("method", "model"))}


def _by(rows: Rows, keys: tuple[str, ...]) -> str:
    """Return one line for each value of the keys and version, counts added up."""
    groups: dict[tuple[str, ...], Rows] = {}
    for row in rows:
        groups.setdefault((*(row[key] for key in keys), row["version"]), []).append(row)
    order = list(dict.fromkeys(group[:-1] for group in groups))
    lines = []
    for group, members in sorted(groups.items(), key=lambda item: order.index(item[0][:-1])):
        images, converged = _total(members, "images"), _total(members, "converged")
        lines.append(
            [
                *group,
                _share(converged, images),
                _share(_total(members, "wrong_marginals"), converged),
                _share(_total(members, "wrong_log_z"), converged),
                _share(_total(members, "beyond_error"), converged),
                _share(_total(members, "right_but_unconverged"), images),
            ]
        )
    head = [*keys, "version", "converged", "of these wrong marginals", "wrong log Z"]
    return frame.table(lines, [*head, "beyond the error given", "right but not converged"])


def _total(rows: Rows, count: str) -> int | None:
    values = [row[count] for row in rows]
    return None if None in values else sum(values)


def _share(part: int | None, whole: int | None) -> str:
    if part is None or not whole:
        return ""
    return f"{100 * part / whole:.1f} %"


if __name__ == "__main__":
    main()
