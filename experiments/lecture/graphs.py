"""A CRF and a conditional neural field over a graph E.

    p(y | x) is proportional to exp( sum_c y_c score(x_c) + sum_{(c, c') in E} y_c y_c' w )

with score(x) = v^T x in a CRF of logistic regressions and v^T h(W x + b) in a neural field.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mlcrf.crf import Potentials, full_edges
from mlcrf.inference import Exact, Gibbs, JunctionTree, treewidth

_PLACES = 12


def make_edges() -> dict[str, Tensor]:
    """A chain, a tree, a ladder, a grid and all pairs of twelve places."""
    places = torch.arange(_PLACES)
    chain = torch.stack([places[:-1], places[1:]], 1)
    tree = torch.stack([(places[1:] - 1) // 2, places[1:]], 1)

    def grid(width: int) -> Tensor:
        right = places[places % width < width - 1]
        down = places[: _PLACES - width]
        pairs = [torch.stack([right, right + 1], 1), torch.stack([down, down + width], 1)]
        return torch.cat(pairs)

    return {
        "chain": chain,
        "tree": tree,
        "ladder 2 x 6": grid(2),
        "grid 3 x 4": grid(3),
        "all pairs": full_edges(_PLACES),
    }


def exact_rows(seed: int = 0) -> list[dict[str, Any]]:
    """Belief propagation on a junction tree against enumeration, gradients included."""
    rows = []
    for name, edges in make_edges().items():
        draw = torch.Generator().manual_seed(seed)
        unary = torch.randn(4, _PLACES, generator=draw, dtype=torch.float64)
        pairwise = torch.randn(len(edges), generator=draw, dtype=torch.float64)
        answers = []
        for method in (Exact(), JunctionTree(max_treewidth=_PLACES)):
            leaves = unary.clone().requires_grad_(), pairwise.clone().requires_grad_()
            potentials = Potentials(leaves[0], edges, leaves[1])
            log_z = method(potentials).log_partition
            answers.append((log_z.detach(), *torch.autograd.grad(log_z.sum(), leaves)))
        errors = [float((a - b).abs().max()) for a, b in zip(*answers, strict=True)]
        rows.append(
            {
                "graph": name,
                "edges": len(edges),
                "treewidth": treewidth(edges, _PLACES),
                **dict(zip(("log_z_error", "marginals_error", "pairs_error"), errors, strict=True)),
            }
        )
    return rows


def gibbs_rows(*, quick: bool) -> list[dict[str, Any]]:
    """Gibbs sampling on the densest graph comes to the exact marginals as samples grow."""
    draw = torch.Generator().manual_seed(0)
    edges = full_edges(_PLACES)
    potentials = Potentials(
        torch.randn(4, _PLACES, generator=draw), edges, torch.randn(len(edges), generator=draw) / 2
    )
    truth = Exact()(potentials).marginals
    rows = []
    for sweeps in (10, 100, 1_000, 10_000)[: 3 if quick else 4]:
        found = Gibbs(chains=64, burn_in=50, sweeps=sweeps)(potentials).marginals
        rows.append({"sweeps": sweeps, "rms_error": float((found - truth).square().mean().sqrt())})
    return rows


class Field(nn.Module):
    """Scores of places and one coupling along a chain.

    Args:
        hidden: units; 0 for logistic regression.
        coupled: whether there is a coupling at all.
    """

    def __init__(self, *, hidden: int, coupled: bool) -> None:
        super().__init__()
        self.score = (
            nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 1))
            if hidden
            else nn.Linear(2, 1)
        )
        self.coupling = nn.Parameter(torch.zeros(()), requires_grad=coupled)
        self.edges = make_edges()["chain"]

    def forward(self, x: Tensor) -> Potentials:
        """Return the CRFs of x (N, places, 2)."""
        return Potentials(
            self.score(x).squeeze(-1), self.edges, self.coupling.expand(len(self.edges))
        )


def field_rows(*, quick: bool, seed: int = 0) -> list[dict[str, Any]]:
    """Held-out likelihood on chains whose evidence is the sign of a product, which is not linear.

    Labels come from a chain with coupling 2 and bias -1; x_c has both its numbers of one sign if
    the label is 1, of two signs if it is 0, plus noise.
    """
    draw = torch.Generator().manual_seed(seed)
    train, test = (draw_chains(200 if quick else 1_000, draw) for _ in range(2))
    rows = []
    for name, hidden, coupled in (
        ("logistic, places apart", 0, False),
        ("logistic, chain (CRF)", 0, True),
        ("neural, places apart", 16, False),
        ("neural, chain (neural field)", 16, True),
    ):
        torch.manual_seed(seed)
        field = Field(hidden=hidden, coupled=coupled)
        fit(field, *train, steps=30 if quick else 150)
        with torch.no_grad():
            potentials = field(test[0])
            posterior = JunctionTree()(potentials)
            log_prob = potentials.log_score(test[1]) - posterior.log_partition
            wrong = ((posterior.marginals > 0.5) != test[1].bool()).double().mean()
        rows.append(
            {
                "model": name,
                "nll": -float(log_prob.mean()),
                "wrong": float(wrong),
                "coupling": float(field.coupling.detach()),
            }
        )
    return rows


def draw_chains(number: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return evidence (number, places, 2) and labels (number, places) of drawn chains."""
    edges = make_edges()["chain"]
    model = Potentials(torch.full((number, _PLACES), -1.0), edges, torch.full((len(edges),), 2.0))
    y = Exact().sample(model, 1, draw)[0].long()
    signs = torch.randint(2, (number, _PLACES), generator=draw) * 2 - 1
    clean = torch.stack([signs, signs * (2 * y - 1)], -1).float()
    return clean + 0.8 * torch.randn(clean.shape, generator=draw), y


def fit(field: Field, x: Tensor, y: Tensor, *, steps: int) -> None:
    """Forward through the network, belief propagation, and back through both."""
    optimiser = torch.optim.LBFGS(field.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        potentials = field(x)
        loss = (JunctionTree()(potentials).log_partition - potentials.log_score(y)).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
