"""The choice of AUTO: an exact method where one is feasible, image by image, else Gibbs."""

from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials, check_known
from mlcrf.inference.enumeration import Exact
from mlcrf.inference.exact.conditioning import pattern
from mlcrf.inference.exact.elimination import treewidth
from mlcrf.inference.exact.partition import count_states
from mlcrf.inference.gibbs_sampling import Gibbs
from mlcrf.inference.independent import Independent
from mlcrf.inference.junction_tree import JunctionTree
from mlcrf.inference.posterior import InferenceMethod, LogPartitionKind, Posterior
from mlcrf.rules import Rules

_FEW = 12  # up to 2^12 states enumeration is always fast
_NARROW = 4  # up to this treewidth a junction tree is faster than 2^13 states
_MAX_TREEWIDTH = 12  # above this, tables of 2^13 entries per image and clique are slow
_MAX_TREEWIDTH_VARYING = 13  # 14 fully coupled labels, where enumeration is no faster

Part = tuple[Exact | JunctionTree | Gibbs, Tensor]  # a method and its images (n,)


def make_exact(
    num_labels: int,
    edges: Tensor,
    *,
    max_exact_labels: int,
    rules: Rules = Rules(),
    varies_by_image: bool = False,
) -> InferenceMethod | None:
    """Return the cheapest exact method, or None if no exact method is feasible.

    Without edges and rules: the closed form. Up to 2^max_exact_labels states: enumeration,
    except that above 2^12 states a junction tree is used if its treewidth is at most 4. Above
    2^max_exact_labels states: a junction tree up to treewidth 12, if no clique has more than
    `max_exact_labels` labels. Couplings that vary by image are not enumerated, because that would
    need one kernel per image: a junction tree handles all images together, up to treewidth 13,
    which is 14 fully coupled labels.

    Args:
        edges: (E, 2).
    """
    if not len(edges) and not len(rules):
        return Independent()
    return _enumerate_or_eliminate(
        num_labels, edges, max_exact_labels, rules, varies_by_image=varies_by_image
    )


def _enumerate_or_eliminate(
    num_labels: int,
    edges: Tensor,
    max_exact_labels: int,
    rules: Rules,
    *,
    varies_by_image: bool,
) -> Exact | JunctionTree | None:
    log_states = count_states(num_labels, rules)
    enumerable = log_states <= max_exact_labels and not varies_by_image
    if enumerable and log_states <= _FEW:
        return Exact(max_labels=max_exact_labels)
    together = edges
    if len(rules):
        together = edges.new_tensor(_union(edges, rules))
    most = _MAX_TREEWIDTH_VARYING if varies_by_image else _MAX_TREEWIDTH
    widest = max(1, min(most, max_exact_labels - 1))  # a clique has one label more
    width = treewidth(together, num_labels, bound=widest)
    if enumerable and width > _NARROW:
        return Exact(max_labels=max_exact_labels)
    return JunctionTree(max_treewidth=widest) if width <= widest else None


@dataclass(frozen=True)
class ExactOrGibbs:
    """Exact inference for images of which enough labels are known, and Gibbs for the others.

    Given known labels, the others are a CRF of fewer labels. An image is inferred exactly where
    `make_exact` has a method for its unknown labels and the edges between them: 40 labels of which
    25 are known are 15. So images of one batch may be inferred differently. Then `log_partition` is
    an estimate with a standard error, which is 0 for the images that were inferred exactly.

    Attributes:
        max_exact_labels: largest number of labels to enumerate, see `make_exact`.
        gibbs: the method of images of which too little is known.
        pairwise_marginals: whether to return pairwise marginals too.

    `log_partition` is differentiable in both potentials.

    Cost: that of the methods; the choice takes up to a few milliseconds for each set of labels
    that is known in some image. Images that know the same labels share an exact sum.
    """

    max_exact_labels: int
    gibbs: Gibbs
    pairwise_marginals: bool = False

    @property
    def name(self) -> str:
        return "exact-or-gibbs"

    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer beliefs; samples are returned only if Gibbs infers all images."""
        clamped = check_known(potentials, known)
        parts = self.split(potentials, clamped)
        posteriors = [
            replace(method, pairwise_marginals=self.pairwise_marginals)(
                potentials.rows(images), known=clamped[images]
            )
            for method, images in parts
        ]
        return posteriors[0] if len(parts) == 1 else _join(potentials, parts, posteriors)

    @torch.no_grad()
    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the most probable label vectors, or the best that Gibbs finds, int64 (N, L)."""
        clamped = check_known(potentials, known)
        best = clamped.clone()
        for method, images in self.split(potentials, clamped):
            best[images] = method.map_states(potentials.rows(images), known=clamped[images])
        return best

    @torch.no_grad()
    def sample(
        self,
        potentials: Potentials,
        num_samples: int,
        generator: torch.Generator,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """Draw label vectors, uint8 (num_samples, N, L): exactly, or from the samples of Gibbs."""
        clamped = check_known(potentials, known)
        drawn = torch.zeros((num_samples, *clamped.shape), dtype=torch.uint8, device=clamped.device)
        for method, images in self.split(potentials, clamped):
            some, told = potentials.rows(images), clamped[images]
            drawn[:, images] = method.sample(some, num_samples, generator, known=told)
        return drawn

    def split(self, potentials: Potentials, known: Tensor) -> list[Part]:
        """Return each method that is needed, with the images that it infers, in rising order.

        Args:
            known: 1, 0 and -1, closed under the rules (N, L).
        """
        alike = pattern(potentials.rules, known)
        patterns, group = torch.unique(alike, dim=0, return_inverse=True)
        first = [int((group == number).nonzero()[0]) for number in range(len(patterns))]
        methods = [self._choose(potentials, known[image]) for image in first]
        chosen = list(dict.fromkeys(methods)) or [self.gibbs]
        number = torch.tensor([chosen.index(method) for method in methods], device=known.device)
        return [
            (method, (number[group] == at).nonzero().squeeze(1)) for at, method in enumerate(chosen)
        ]

    def _choose(self, potentials: Potentials, known: Tensor) -> Exact | JunctionTree | Gibbs:
        """Return the method for the labels that are unknown, given the others (L,)."""
        edges, unknown = potentials.edges, known == UNKNOWN
        labels = unknown.nonzero().squeeze(1).tolist()
        place = unknown.cumsum(0) - 1
        exact = _enumerate_or_eliminate(
            len(labels),
            place[edges[unknown[edges].all(1)]],
            self.max_exact_labels,
            potentials.rules.given(known.tolist(), labels),
            varies_by_image=potentials.varies_by_image,
        )
        return exact or self.gibbs


def _join(potentials: Potentials, parts: list[Part], posteriors: list[Posterior]) -> Posterior:
    """Return the posterior of all images from those of the parts."""
    marginals = torch.empty_like(potentials.unary)
    log_partition = torch.zeros_like(marginals[:, 0])
    converged = torch.empty_like(log_partition, dtype=torch.bool)
    error = torch.zeros_like(log_partition, dtype=torch.float64)
    pairs = marginals.new_zeros(len(marginals), len(potentials.edges))
    for (_, images), one in zip(parts, posteriors, strict=True):
        marginals[images] = one.marginals.detach()
        log_partition = log_partition.index_put((images,), one.log_partition)
        if one.pairwise_marginals is not None:
            pairs[images] = one.pairwise_marginals.detach()
        converged[images] = one.converged
        if one.log_partition_error is not None:
            error[images] = one.log_partition_error
    sampled = [one for one in posteriors if one.log_partition_kind is LogPartitionKind.ESTIMATE]
    return Posterior(
        marginals=marginals,
        log_partition=log_partition,
        log_partition_kind=(sampled or posteriors)[0].log_partition_kind,
        converged=converged,
        advice="".join(one.advice for one in sampled),
        pairwise_marginals=None if posteriors[0].pairwise_marginals is None else pairs,
        log_partition_error=error if sampled else None,
    )


def _union(edges: Tensor, rules: Rules) -> list[list[int]]:
    """Return the edges, and those between labels that a rule names together."""
    pairs = {(min(pair), max(pair)) for pair in (*edges.tolist(), *rules.pairs)}
    for limit in rules.limits:
        pairs.update(combinations(sorted(limit.labels), 2))
    return [list(pair) for pair in sorted(pairs)]
