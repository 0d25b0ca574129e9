"""The learned part above the features: a head that gives unaries, and couplings between labels."""

import copy

import torch
from torch import Tensor, nn

from mlcrf.crf import Potentials, full_edges


class LabelCrf(nn.Module):
    """Features to potentials: unary = head(features), one free coupling an edge.

        unary = W x + b                          hidden = 0
        unary = W2 relu(W1 x + b1) + b2          hidden > 0

    Without edges it is the independent baseline.

    Args:
        num_features, num_labels: D and L.
        edges: label pairs with a coupling, int64 (E, 2); all pairs if None.
        hidden: units of the hidden layer, 0 for none.
        seed: of the hidden layer's initial weights; everything else starts at zero.
    """

    edges: Tensor

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        *,
        edges: Tensor | None = None,
        hidden: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.output = nn.Linear(hidden or num_features, num_labels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.hidden: nn.Linear | None = None
        if hidden:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.hidden = nn.Linear(num_features, hidden)
                nn.init.normal_(self.output.weight, std=0.01)
        self.register_buffer("edges", full_edges(num_labels) if edges is None else edges)
        self.pairwise = nn.Parameter(torch.zeros(len(self.edges)))

    def forward(self, features: Tensor) -> Potentials:
        """Potentials of a batch: features (N, D) to unary (N, L), pairwise (E,)."""
        inner = features if self.hidden is None else self.hidden(features).relu()
        return Potentials(self.output(inner), self.edges, self.pairwise)

    def clone(self) -> "LabelCrf":
        """A model of the same shape and values that shares nothing with this one."""
        return copy.deepcopy(self)

    def pairwise_matrix(self) -> Tensor:
        """The learned couplings, symmetric with zero diagonal (L, L)."""
        empty = self.pairwise.new_zeros(1, self.num_labels)
        return Potentials(empty, self.edges, self.pairwise.detach()).pairwise_matrix()


def no_edges() -> Tensor:
    """The edge set of the independent baseline, int64 (0, 2)."""
    return torch.empty((0, 2), dtype=torch.int64)
