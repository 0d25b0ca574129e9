"""Exact inference for many calls with the same couplings: the kernel is computed once."""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from mlcrf.crf import Potentials, check_known
from mlcrf.errors import PotentialsError
from mlcrf.inference.enumeration import TYPICAL, Exact, sort_states
from mlcrf.inference.exact.conditioning import Rest, join_posteriors
from mlcrf.inference.exact.moments import likely_pair_marginals
from mlcrf.inference.exact.split_enumeration import Split
from mlcrf.inference.posterior import InferenceMethod, LogPartitionKind, Posterior

_READ = 4  # the cost of reading an entry of the kernel, in states of an image
_AT_ONCE = 256  # images per chunk, which bounds the memory


class PreparedExact:
    """`Exact` for couplings that all images share, with a kernel that is computed once.

    For a single image at 24 labels `Exact` spends most of its time on the kernel, and for 256 on
    sorting half-states. Images of which much is known are left to `Exact`, which enumerates their
    unknown labels alone. The kernel is made for the first image that needs it. Not thread-safe.

    Args:
        method: gives the limit on labels.
        potentials: any of the images; their couplings and rules are kept.
        leave_out: share of each image's Z that may be left out, as in `Exact`; half-states are
            sorted by the images of the first call that has enough.

    Cost: memory of 4 bytes x 2^L as long as it lives; a call takes two products of the kernel
    with N columns.
    """

    def __init__(self, method: Exact, potentials: Potentials, *, leave_out: float = 0) -> None:
        if potentials.varies_by_image:
            raise PotentialsError(
                "pairwise: expected (E,) to prepare, got couplings of each image; use Exact"
            )
        # for images of which much is known, alike in what is returned and left out
        self._of_few = replace(method, pairwise_marginals=False, leave_out=leave_out)
        self._method = method
        self._potentials = potentials
        self._may_sort = leave_out > 0 and potentials.unary.dtype != torch.float64
        self._leave_out = leave_out

    @cached_property
    def _split(self) -> Split:
        """The halves of all labels, with their kernel."""
        return _split(self._potentials)

    @property
    def name(self) -> str:
        return self._method.name

    @torch.no_grad()
    def __call__(self, potentials: Potentials, *, known: Tensor | None = None) -> Posterior:
        """Infer marginals and log Z, exact up to `error_bound`, without gradients."""
        clamped = self._check(potentials, known)
        parts = [
            (rest, self._infer(rest))
            for rest in self._method.split_by_known(potentials, clamped, kernel=_READ)
        ]
        return join_posteriors(potentials, clamped, parts)

    def _infer(self, rest: Rest) -> Posterior:
        potentials, clamped = rest.potentials, rest.known
        if potentials.num_labels < self._potentials.num_labels:
            return self._of_few(potentials, known=clamped)
        if self._may_sort and len(clamped) >= TYPICAL:
            sort_states(self._split, potentials.unary, clamped, self._leave_out)
            self._may_sort = False
        marginals = torch.empty_like(potentials.unary)
        log_partition = marginals.new_empty(len(marginals))
        error_bound = marginals.new_zeros(len(marginals), dtype=torch.float64)
        for rows in _parts(len(clamped)):
            sums = self._split.sums(self._split.scores(potentials.unary[rows], clamped[rows]))
            marginals[rows] = self._split.marginals(sums).to(marginals.dtype)
            log_partition[rows] = sums.log_partition.to(marginals.dtype)
            error_bound[rows] = sums.dropped.to(error_bound)
        return Posterior(
            marginals=marginals,
            log_partition=log_partition,
            log_partition_kind=LogPartitionKind.EXACT,
            converged=torch.ones_like(log_partition, dtype=torch.bool),
            error_bound=error_bound,
        )

    def map_states(self, potentials: Potentials, *, known: Tensor | None = None) -> Tensor:
        """Return the most probable label vectors, int64 (N, L), by `Exact`."""
        return self._method.map_states(potentials, known=known)

    @torch.no_grad()
    def pair_marginals(
        self, potentials: Potentials, *, known: Tensor | None = None, leave_out: float = 1e-3
    ) -> Tensor:
        """Return P(y_i = 1, y_j = 1) of all pairs, edges or not, marginals on the diagonal.

        Half-states that carry up to a share `leave_out` of an image's Z may be left out, and no
        value is off by more than twice that.

        Returns:
            float64 (N, L, L).
        """
        clamped = self._check(potentials, known)
        p = clamped.double()
        result = torch.empty((*p.shape, p.shape[1])).to(p)
        for rest in self._method.split_by_known(potentials, clamped, kernel=_READ):
            pairs = self._pairs(rest, leave_out)
            p[rest.columns] = pairs.diagonal(dim1=1, dim2=2)
            some = p[rest.images]
            together = some[:, :, None] * some[:, None]  # right where a label is known
            together[:, rest.labels[:, None], rest.labels] = pairs
            together.diagonal(dim1=1, dim2=2).copy_(some)
            result[rest.images] = together
        return result

    def _pairs(self, rest: Rest, leave_out: float) -> Tensor:
        potentials, clamped = rest.potentials, rest.known
        num_labels = potentials.num_labels
        of_few = num_labels < self._potentials.num_labels
        split = _split(potentials) if of_few else self._split
        result = clamped.new_empty((len(clamped), num_labels, num_labels), dtype=torch.float64)
        for rows in _parts(len(clamped)):
            scores = split.scores(potentials.unary[rows], clamped[rows])
            result[rows] = likely_pair_marginals(split, scores, split.sums(scores), leave_out)
        return result

    def _check(self, potentials: Potentials, known: Tensor | None) -> Tensor:
        ours, theirs = self._potentials.pairwise, potentials.pairwise
        same = ours is theirs or torch.equal(ours, theirs)
        if not same:
            raise PotentialsError("pairwise: expected the couplings that were prepared, got others")
        return check_known(potentials, known)


def prepare(
    method: InferenceMethod, potentials: Potentials, *, leave_out: float = 0
) -> InferenceMethod:
    """Return the method, or a faster one for many calls with these couplings."""
    if isinstance(method, Exact) and not potentials.varies_by_image:
        return PreparedExact(method, potentials, leave_out=leave_out)
    return method


def _split(potentials: Potentials) -> Split:
    first_level = int(potentials.unary.dtype == torch.float64)
    return Split(potentials.pairwise_matrix(), potentials.rules, first_level=first_level)


def _parts(num_images: int) -> list[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, num_images, _AT_ONCE)]
