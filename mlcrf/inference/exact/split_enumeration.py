"""All 2^L states as the product of two halves: exact sums in a few matrix products.

Split the labels in two halves A and B. With S_A, S_B the states of the halves and J_AB the
couplings between them,

    log_score(a, b) = log_alpha_a + log_beta_b + (S_A J_AB S_B^T)_ab

where log_alpha and log_beta hold the unaries and the couplings inside a half. Around a point m,

    S_A J m_B + m_A J S_B^T - m_A J m_B + (S_A - m_A) J (S_B - m_B)^T

so the kernel K = exp((S_A - m_A) J (S_B - m_B)^T) has a far smaller range of values than
exp(S_A J S_B^T), and the rest goes into log_alpha and log_beta, image by image. With m = 1/2 the
exponent of K is at most sum |J_AB| / 4, and the labels are split so that this is small. The
coupling between the two quarters of a half is split in the same way; the part common to all images
goes into the kernel.

Then Z = alpha^T K beta. Each image is first computed in float32; the loss to underflow is bounded,
and if the bound exceeds `_SLACK` times Z, the image is computed again in float64, then in log
space.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mlcrf.inference.exact.halves import Across, make_halves
from mlcrf.inference.exact.kernel import Kernel
from mlcrf.inference.exact.partition import split_labels
from mlcrf.inference.exact.pruning import DENSE, Pruner, TilePlan, popularity
from mlcrf.inference.exact.scratch import borrow_scratch
from mlcrf.inference.exact.sums import Linear, Scores, Sums
from mlcrf.rules import Rules

_SLACK = 1e-7  # largest share of Z that may be lost to underflow
_BLOCK = 2**24  # largest number of joint scores per chunk in log space
_LOG_TINY = {torch.float32: -87.0, torch.float64: -708.0}  # logs of the smallest normal numbers
_FACTORS = 3  # number of successive factors, each of which may underflow
_LOG_SPACE = 2  # after the levels float32 (0) and float64 (1)
LEVELS = (torch.float32, torch.float64)


class Split:
    """The two halves of one CRF with couplings shared by all images.

    Args:
        matrix: couplings, symmetric with zero diagonal (L, L).
        rules: states that break a hard one are left out.
        first_level: 0 to begin in float32, 1 in float64.
        parts: labels of the two halves; chosen by `split_labels` if None.

    Attributes:
        was_sorted: whether `prune` was called, even if it was not worth sorting.
    """

    def __init__(
        self,
        matrix: Tensor,
        rules: Rules = Rules(),
        *,
        first_level: int = 0,
        parts: tuple[list[int], list[int]] | None = None,
    ) -> None:
        matrix = matrix.detach().double()
        self.first_level = first_level
        parts = parts or split_labels(matrix, rules)
        self.half_a, self.half_b = make_halves(matrix, rules, parts)
        self.matrix = matrix
        self.between = matrix[self.half_a.labels][:, self.half_b.labels]
        self._scratch = borrow_scratch(self)
        self.across = Across(rules, self.half_a.labels, self.half_b.labels)
        self.kernel = self._make_kernel()
        self._pruner: Pruner | None = None
        self.was_sorted = False
        # the part of the couplings between the halves that depends on one half's state alone
        self._shift = matrix.new_zeros(len(matrix))
        self._shift[self.half_a.labels] = self.between.sum(1) / 2
        self._shift[self.half_b.labels] = self.between.sum(0) / 2
        self.constant = float(self.between.sum()) / 4

    @property
    def num_states(self) -> int:
        """The number of label vectors in the sum."""
        return len(self.half_a) * len(self.half_b)

    def prune(self, unary: Tensor, known: Tensor, tolerance: float) -> None:
        """Leave out up to a share `tolerance` of each image's Z in float32 from now on.

        Sorts the half-states. Does nothing where the kernel is too large to be kept, or for
        float32, or has zeros, or where typical images need most half-states.

        Args:
            unary, known: of typical images, (N, L).
        """
        self.was_sorted = True
        if self.across.limits or not (self.kernel.is_kept and self._is_in_range(0)):
            return
        alpha, beta, _ = self.weights(self.scores(unary, known), torch.float32)
        (order_a, needed_a), (order_b, needed_b) = (
            popularity(weights, half.states, along @ (other.presence(others) - 0.5).T, tolerance)
            for weights, half, along, others, other in (
                (alpha, self.half_a, self.between, beta, self.half_b),
                (beta, self.half_b, self.between.T, alpha, self.half_a),
            )
        )
        if needed_a * needed_b > DENSE:
            return
        self.half_a, self.half_b = self.half_a.permuted(order_a), self.half_b.permuted(order_b)
        self.kernel = self._make_kernel()
        self._pruner = Pruner(self.kernel, alpha[:, order_a], beta[:, order_b], tolerance)

    def _make_kernel(self) -> Kernel:
        return Kernel(self.half_a, self.half_b, self.between, self.across, self._scratch)

    def weights(self, scores: Scores, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha (N, S_A), beta (N, S_B), and the log of their divisor (N,).

        Valid until the next call, which uses the same memory.
        """
        (alpha, top_a), (beta, top_b) = (
            half.weights(scores.unary + self._shift, scores.known, dtype, self._scratch, name)
            for half, name in ((self.half_a, "alpha"), (self.half_b, "beta"))
        )
        return alpha, beta, top_a + top_b - self.constant

    def scores(self, unary: Tensor, known: Tensor) -> Scores:
        """Return the scores for unary (N, L) and known (N, L) of 1, 0, -1."""
        return Scores(unary.detach().double(), known)

    def marginals(self, sums: Sums) -> Tensor:
        """Return P(y_i = 1) of every label, float64 (N, L)."""
        result = self.matrix.new_empty(len(sums.log_partition), len(self.matrix))
        for which, half in enumerate((self.half_a, self.half_b)):
            for images, mass, _ in sums.masses(which):
                result[images[:, None], half.labels] = half.presence(mass)
        return result.clamp_(0, 1)

    def states(self, index_a: Tensor, index_b: Tensor) -> Tensor:
        """Return label vectors (..., L) from the numbers of their half-states (...)."""
        result = index_a.new_empty((*index_a.shape, len(self.matrix)))
        result[..., self.half_a.labels] = self.half_a.states[index_a].long()
        result[..., self.half_b.labels] = self.half_b.states[index_b].long()
        return result

    def sums(self, scores: Scores) -> Sums:
        """Compute log Z and the probability of every half-state.

        Cost: two products of S_A x S_B with N columns each, 4 N S_A S_B operations.
        """
        num_images, device = len(scores), scores.unary.device
        out = Sums(
            scores.unary.new_empty(num_images),
            torch.full((num_images,), _LOG_SPACE, device=device),
            scores.unary.new_zeros(num_images),
            [],
            {},
        )
        pending = torch.arange(num_images, device=device)
        for level in range(self.first_level, _LOG_SPACE):
            if len(pending) and self._is_in_range(level):
                pending = self._sums_linear(scores, pending, level, out)
        for image in pending.tolist():
            self._sums_log_space(scores, image, out)
        return out

    def to_a(self, beta: Tensor, plan: TilePlan | None) -> Tensor:
        """Return K beta, (n, S_B) -> (n, S_A)."""
        result = beta.new_empty(len(beta), len(self.half_a))
        self._multiply(plan, beta=beta, on_a=result)
        return result

    def to_b(self, alpha: Tensor, plan: TilePlan | None) -> Tensor:
        """Return alpha K, (n, S_A) -> (n, S_B)."""
        result = alpha.new_empty(len(alpha), len(self.half_b))
        self._multiply(plan, alpha=alpha, on_b=result)
        return result

    def _masses(self, alpha: Tensor, beta: Tensor, plan: TilePlan | None) -> tuple[Tensor, Tensor]:
        """Return alpha * (K beta) and beta * (alpha K), in one pass over the kernel."""
        mass_a = self._scratch.take("mass_a", (*alpha.shape,), alpha)
        mass_b = self._scratch.take("mass_b", (*beta.shape,), beta)
        self._multiply(plan, alpha=alpha, beta=beta, on_a=mass_a, on_b=mass_b)
        return mass_a.mul_(alpha), mass_b.mul_(beta)

    def _multiply(
        self,
        plan: TilePlan | None,
        *,
        alpha: Tensor | None = None,
        beta: Tensor | None = None,
        on_a: Tensor | None = None,
        on_b: Tensor | None = None,
    ) -> None:
        """Fill in K beta on A's half-states, alpha K on B's, or both, by the plan."""
        if plan is None:
            for rows in self.kernel.blocks:
                if beta is not None and on_a is not None:
                    torch.mm(beta, self.kernel.block(rows, beta.dtype).T, out=on_a[:, rows])
                if alpha is not None and on_b is not None:
                    block = self.kernel.block(rows, alpha.dtype)
                    on_b.addmm_(alpha[:, rows], block, beta=int(rows.start > 0))
            return
        for result in (on_a, on_b):
            if result is not None:
                result.zero_()
        for rows, columns, images in plan.products:
            if beta is not None and on_a is not None:
                tile = self.kernel.block(rows, beta.dtype)[:, columns]
                _add_product(on_a[:, rows], beta[:, columns], tile.T, images)
            if alpha is not None and on_b is not None:
                tile = self.kernel.block(rows, alpha.dtype)[:, columns]
                _add_product(on_b[:, columns], alpha[:, rows], tile, images)

    def _is_in_range(self, level: int) -> bool:
        """Return whether factors and sums of products fit the level's type."""
        largest = -_LOG_TINY[LEVELS[level]]
        log_sum = self.kernel.exponent_bound + math.log(self.num_states)
        return self.kernel.exponent_bound <= 0.8 * largest and log_sum <= largest

    def _sums_linear(self, scores: Scores, wanted: Tensor, level: int, out: Sums) -> Tensor:
        """Fill in the images that are safe at this level; return the others."""
        dtype = LEVELS[level]
        some = scores if len(wanted) == len(scores) else scores.rows(wanted)
        alpha, beta, top = self.weights(some, dtype)
        plan = self._plan(alpha, beta) if level == 0 else None
        mass_a, mass_b = self._masses(alpha, beta, plan)
        total = mass_a.sum(-1).double()  # pairwise sums, each as precise as its type
        if plan is not None and self._pruner is not None:
            over = (plan.dropped > self._pruner.tolerance * total).nonzero().squeeze(1)
            if len(over):  # the estimate of Z was too high; `total` is a lower bound
                more = self._pruner.plan(alpha[over], beta[over], at_least=total[over])
                mass_a[over] = self.to_a(beta[over], more).mul_(alpha[over])
                mass_b[over] = self.to_b(alpha[over], more).mul_(beta[over])
                total[over] = mass_a[over].sum(-1).double()
                plan = plan.updated(over, more)
        log_lost = (
            _LOG_TINY[dtype] + self.kernel.exponent_bound + math.log(_FACTORS * self.num_states)
        )
        safe = total.log() >= log_lost - math.log(_SLACK)
        linear = Linear(wanted, dtype, total, plan, alpha, beta, mass_a, mass_b)
        if not bool(safe.all()):
            linear, top = linear.among(safe), top[safe]
        out.log_partition[linear.images] = linear.total.log() + top
        if linear.plan is not None:
            out.dropped[linear.images] = linear.plan.dropped / linear.total
        out.level[linear.images] = level
        out.linear.append(linear)
        return wanted[~safe]

    def _plan(self, alpha: Tensor, beta: Tensor) -> TilePlan | None:
        if self._pruner is None:
            return None
        plan = self._pruner.plan(alpha, beta)
        if plan.share > DENSE:  # nor will it be worth it for later images
            self._pruner = None
            return None
        return plan

    def _sums_log_space(self, scores: Scores, image: int, out: Sums) -> None:
        log_a = scores.unary.new_full((len(self.half_a),), -math.inf)
        log_b = scores.unary.new_full((len(self.half_b),), -math.inf)
        for rows, joint in self._joint_blocks(scores, image):
            log_a[rows] = joint.logsumexp(1)
            log_b = torch.logaddexp(log_b, joint.logsumexp(0))
        log_z = log_a.logsumexp(0)
        out.log_partition[image] = log_z
        out.logs[image] = (log_a - log_z, log_b - log_b.logsumexp(0))

    def _joint_blocks(self, scores: Scores, image: int) -> Iterator[tuple[slice, Tensor]]:
        one = scores.rows(slice(image, image + 1))
        log_alpha = self.half_a.log_scores(one.unary, one.known)[0]
        log_beta = self.half_b.log_scores(one.unary, one.known)[0]
        rows = max(1, _BLOCK // len(self.half_b))
        for start in range(0, len(self.half_a), rows):
            wanted = slice(start, start + rows)
            couplings = self.kernel.couplings(self.half_a.states[wanted])
            yield wanted, couplings + log_alpha[wanted, None] + log_beta

    def joint(self, scores: Scores, sums: Sums, image: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield the probabilities of one image's states, by rows of half-states (rows, S_B)."""
        for rows, joint in self._joint_blocks(scores, image):
            yield rows, (joint - sums.log_partition[image]).exp()


def _add_product(target: Tensor, left: Tensor, right: Tensor, images: Tensor | None) -> None:
    """Add left @ right to all rows of the target, or to those of some images."""
    if images is None:
        target.addmm_(left, right)
    else:  # faster than `index_add_` to part of an array
        added = target.index_select(0, images).addmm_(left.index_select(0, images), right)
        target.index_copy_(0, images, added)
