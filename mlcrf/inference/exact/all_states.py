"""All states of small CRFs in plain tensor operations, image by image with its own couplings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference.exact.differentiation import Beliefs
from mlcrf.inference.exact.halves import Across, soft_costs
from mlcrf.inference.exact.partition import possible_states, split_labels

MOST_LABELS = 16  # log2 of the largest number of states
_AT_ONCE = 2**19  # states of images together


@dataclass(frozen=True)
class AllStates:
    """The states of two halves of the labels; each state is a pair of them.

    The scores of all states of an image are one matrix, in log space and float64:

        log_alpha_a + (S_A J_AB S_B^T)_ab + log_beta_b

    Attributes:
        potentials: give edges, the number of labels and the rules.
        known: 1, 0 or -1 (N, L).
        labels: of each half, int64 (l,).
        states: of each half, float64 (S, l).
        added: what rules add to log-scores, float64 (S_A, S_B).

    Cost: N 2^L exponentials, in a few passes. Memory: 2^L numbers for each image of a part.
    """

    potentials: Potentials
    known: Tensor
    labels: tuple[Tensor, Tensor]
    states: tuple[Tensor, Tensor]
    added: Tensor

    @classmethod
    def of(cls, potentials: Potentials, known: Tensor) -> "AllStates":
        """Return the states of these CRFs, of at most 2^16 states."""
        rules, strength = potentials.rules, potentials.pairwise_matrix().detach().abs()
        if potentials.varies_by_image:
            strength = strength.sum(0)
        halves = split_labels(strength, rules)
        device = potentials.unary.device
        first, second = (torch.tensor(half, dtype=torch.int64, device=device) for half in halves)
        of_first, of_second = (possible_states(half, rules).double().to(device) for half in halves)
        added = Across(rules, first, second).log_weights(of_first, of_second)
        for half, states, axis in ((halves[0], of_first, 1), (halves[1], of_second, 0)):
            added = added + soft_costs(half, rules, states).unsqueeze(axis)
        return cls(potentials, known, (first, second), (of_first, of_second), added)

    @property
    def parts(self) -> list[slice]:
        """The images that are done together."""
        first, second = self.states
        size = max(1, _AT_ONCE // (len(first) * len(second)))
        num_images = len(self.known)
        return [slice(at, min(at + size, num_images)) for at in range(0, num_images, size)]

    def log_scores(self, rows: slice, unary: Tensor, pairwise: Tensor) -> Tensor:
        """Return the log-score of every state of some images (n, S_A, S_B); -inf if contradicted.

        Args:
            unary, pairwise: of all images, float64.
        """
        edges, num_labels = self.potentials.edges, self.potentials.num_labels
        couplings = pairwise[rows] if pairwise.ndim == 2 else pairwise[None]
        upper = couplings.new_zeros(len(couplings), num_labels, num_labels)
        upper = upper.index_put(
            (torch.arange(len(upper), device=upper.device)[:, None], *edges.T), couplings
        )
        matrix = upper + upper.mT
        of_half = []
        for labels, states in zip(self.labels, self.states, strict=True):
            inside = matrix[:, labels[:, None], labels].triu(1)
            scores = unary[rows][:, labels] @ states.T + ((states @ inside) * states).sum(-1)
            known = self.known[rows][:, labels, None]
            wrong = ((known != UNKNOWN) & (known != states.T)).any(1)
            of_half.append(scores.masked_fill(wrong, -torch.inf))
        (a, b), (states_a, states_b) = self.labels, self.states
        between = states_a @ matrix[:, a[:, None], b] @ states_b.T
        return between + self.added + of_half[0][:, :, None] + of_half[1][:, None]

    def __call__(
        self, rows: slice, unary: Tensor, pairwise: Tensor, *, pairs_wanted: bool
    ) -> Beliefs:
        """Return the beliefs of some of the images, given the potentials of all, float64."""
        scores = self.log_scores(rows, unary, pairwise)
        top = scores.detach().amax((1, 2), keepdim=True)
        mass = (scores - top).exp()
        total = mass.sum((1, 2), keepdim=True)
        mass = mass / total
        states_a, states_b = self.states
        order = torch.cat(self.labels).argsort()
        by_a, by_b = mass.sum(2), mass.sum(1)
        marginals = torch.cat([by_a @ states_a, by_b @ states_b], 1)[:, order]
        log_partition = (total.log() + top).squeeze((1, 2))
        if not pairs_wanted:
            return log_partition, marginals, marginals[:, :0]
        across = states_a.T @ mass @ states_b
        first = states_a.T @ (by_a[:, :, None] * states_a)
        second = states_b.T @ (by_b[:, :, None] * states_b)
        rows_of_a, rows_of_b = torch.cat([first, across], 2), torch.cat([across.mT, second], 2)
        pairs = torch.cat([rows_of_a, rows_of_b], 1)
        one, other = order[self.potentials.edges].T
        return log_partition, marginals, pairs[:, one, other]

    def best(self, rows: slice, unary: Tensor, pairwise: Tensor) -> Tensor:
        """Return the most probable label vectors of some of the images, int64 (n, L)."""
        scores = self.log_scores(rows, unary, pairwise)
        at = scores.flatten(1).argmax(1)
        first, second = self.states
        found = torch.cat([first[at // len(second)], second[at % len(second)]], 1)
        return found[:, torch.cat(self.labels).argsort()].long()
