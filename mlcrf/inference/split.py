"""All 2^L states as the product of two halves: exact sums in a few matrix products.

Split the labels in two halves A and B. With S_A, S_B the states of the halves and J_AB the
couplings between them,

    log_score(a, b) = log_alpha_a + log_beta_b + (S_A J_AB S_B^T)_ab

where log_alpha and log_beta hold the unaries and the couplings inside a half. Around a point m,

    S_A J m_B + m_A J S_B^T - m_A J m_B + (S_A - m_A) J (S_B - m_B)^T

so the kernel K = exp((S_A - m_A) J (S_B - m_B)^T) spans far less than exp(S_A J S_B^T) does, and
the rest goes into log_alpha and log_beta, image by image. We take m = 1/2, which bounds the
exponent of K by sum |J_AB| / 4.

Then Z = alpha^T K beta. Each image is first tried in float32; the sum of all that can have been
lost to underflow is bounded, and where that bound is not below `_SLACK` of Z, the image is done
again in float64, then in log space.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.crf import no_implications
from mlcrf.inference.halves import make_halves
from mlcrf.inference.kernel import Kernel
from mlcrf.inference.pruning import Plan, Pruner, Reference, dense_plan, popularity

_SLACK = 1e-7  # the share of Z that underflow may cost
_BLOCK = 2**24  # entries of the joint scores that are handled at once in log space
_LOG_TINY = {torch.float32: -87.0, torch.float64: -708.0}  # logs of the smallest normal numbers
_LOG_SPACE = 2  # after the levels float32 (0) and float64 (1)
_LEVELS = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Scores:
    """What the half-states' scores are made of, for N images.

    Attributes:
        unary: with the shift that goes with m = 1/2, float64 (N, L).
        known: 1, 0, -1 unknown (N, L).
    """

    unary: Tensor
    known: Tensor

    def rows(self, wanted: Tensor | slice) -> "Scores":
        """Those of some of the images."""
        return Scores(self.unary[wanted], self.known[wanted])

    def __len__(self) -> int:
        return len(self.unary)


@dataclass(frozen=True)
class Linear:
    """Some images at a level that is not log space.

    Attributes:
        images: which of the batch they are, in the plan's order, int64 (n,).
        alpha, beta: exp(log_alpha - top_a), exp(log_beta - top_b) in the level's type, in the
            plan's order (n, S_A), (n, S_B).
        mass_a, mass_b: alpha * (K beta) and beta * (alpha K), in that order.
        total: their sum, Z scaled, float64 (n,).
        plan: which tiles of the kernel the images need.
    """

    images: Tensor
    alpha: Tensor
    beta: Tensor
    mass_a: Tensor
    mass_b: Tensor
    total: Tensor
    plan: Plan


@dataclass(frozen=True)
class Sums:
    """What follows from summing over all states.

    Attributes:
        log_partition: float64 (N,).
        level: 0 float32, 1 float64, 2 log space, by image (N,).
        dropped: bound on the share of Z that was left out, float64 (N,).
        linear: the images of the levels before log space.
        logs: log-probabilities of the half-states, of A and of B, by image in log space.
    """

    log_partition: Tensor
    level: Tensor
    dropped: Tensor
    linear: list[Linear]
    logs: dict[int, tuple[Tensor, Tensor]]

    def masses(self, half: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Probabilities of one half's states (0 for A, 1 for B), some images at a time.

        Returns:
            images (n,), masses (n, S) and what to divide them by, float64 (n,).
        """
        for linear in self.linear:
            yield linear.images, (linear.mass_a, linear.mass_b)[half], linear.total
        for image, logs in self.logs.items():
            one = logs[half].new_ones(1)
            yield torch.tensor([image], device=one.device), logs[half].exp()[None], one


class Split:
    """The two halves of one CRF with couplings shared by all images.

    Args:
        matrix: couplings, symmetric with zero diagonal (L, L).
        implications: pairs (child, parent); states that break one are left out.
        first_level: 0 to begin in float32, 1 in float64.
    """

    def __init__(
        self, matrix: Tensor, implications: Tensor | None = None, *, first_level: int = 0
    ) -> None:
        matrix = matrix.detach().double()
        rules = no_implications() if implications is None else implications
        self.first_level = first_level
        self.half_a, self.half_b = make_halves(matrix, rules)
        self._matrix = matrix
        self._between = matrix[self.half_a.labels][:, self.half_b.labels]
        self.kernel = Kernel(self.half_a, self.half_b, self._between)
        self._pruner: Pruner | None = None
        # the part of the couplings between the halves that belongs to one half's state alone
        self._shift = matrix.new_zeros(len(matrix))
        self._shift[self.half_a.labels] = self._between.sum(1) / 2
        self._shift[self.half_b.labels] = self._between.sum(0) / 2
        self.constant = float(self._between.sum()) / 4

    def prune(self, unary: Tensor, known: Tensor, tolerance: float) -> None:
        """From now on leave out up to a share `tolerance` of each image's Z, at the first level.

        Sorts the half-states. Args: some typical images, unary (N, L) and known (N, L).
        """
        scores = self.scores(unary, known)
        reference = Reference.of(
            *(
                half.weights(scores.unary, scores.known, torch.float32)[0]
                for half in (self.half_a, self.half_b)
            )
        )
        order_a, order_b = popularity(reference, self.half_a, self.half_b, self._between)
        self.half_a, self.half_b = self.half_a.permuted(order_a), self.half_b.permuted(order_b)
        self.kernel = Kernel(self.half_a, self.half_b, self._between)
        if self.kernel.exponent_bound <= 0.8 * -_LOG_TINY[torch.float32]:
            reference = Reference(reference.weight_a[order_a], reference.weight_b[order_b])
            self._pruner = Pruner(self.kernel, reference, tolerance)

    def scores(self, unary: Tensor, known: Tensor) -> Scores:
        """Of unary (N, L) and known (N, L) of 1, 0, -1."""
        return Scores(unary.detach().double() + self._shift, known)

    def marginals(self, sums: Sums) -> Tensor:
        """P(y_i = 1) of every label, float64 (N, L)."""
        result = self._matrix.new_empty(len(sums.log_partition), len(self._matrix))
        for which, half in enumerate((self.half_a, self.half_b)):
            for images, mass, total in sums.masses(which):
                present = (mass @ half.states.to(mass)).double()
                result[images[:, None], half.labels] = present / total[:, None]
        return result.clamp_(0, 1)

    def states(self, index_a: Tensor, index_b: Tensor) -> Tensor:
        """Label vectors (..., L) from the numbers of their half-states (...)."""
        result = index_a.new_empty((*index_a.shape, len(self._matrix)))
        result[..., self.half_a.labels] = self.half_a.states[index_a].long()
        result[..., self.half_b.labels] = self.half_b.states[index_b].long()
        return result

    def sums(self, scores: Scores) -> Sums:
        """Log Z and the probability of every half-state.

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
            tiny = _LOG_TINY[_LEVELS[level]]
            if len(pending) and self.kernel.exponent_bound <= 0.8 * -tiny:
                pending = self._sums_linear(scores, pending, level, out)
        for image in pending.tolist():
            self._sums_log_space(scores, image, out)
        return out

    def to_a(self, beta: Tensor, plan: Plan) -> Tensor:
        """K beta for images in the plan's order: (n, S_B) -> (n, S_A)."""
        result = beta.new_zeros(len(beta), len(self.half_a))
        for at, rows in enumerate(plan.rows):
            block = self.kernel.block(rows, beta.dtype)
            for images, runs in plan.runs(at):
                for columns in runs:
                    result[images, rows].addmm_(beta[images, columns], block[:, columns].T)
        return result

    def to_b(self, alpha: Tensor, plan: Plan) -> Tensor:
        """alpha K for images in the plan's order: (n, S_A) -> (n, S_B)."""
        result = alpha.new_zeros(len(alpha), len(self.half_b))
        for at, rows in enumerate(plan.rows):
            block = self.kernel.block(rows, alpha.dtype)
            for images, runs in plan.runs(at):
                for columns in runs:
                    result[images, columns].addmm_(alpha[images, rows], block[:, columns])
        return result

    def _sums_linear(self, scores: Scores, wanted: Tensor, level: int, out: Sums) -> Tensor:
        """Fill in the images that are safe at this level; return the others."""
        dtype = _LEVELS[level]
        some = scores if len(wanted) == len(scores) else scores.rows(wanted)
        alpha, top_a = self.half_a.weights(some.unary, some.known, dtype)
        beta, top_b = self.half_b.weights(some.unary, some.known, dtype)
        top = top_a + top_b - self.constant
        if level == 0 and self._pruner is not None:
            plan = self._pruner.plan(alpha, beta)
        else:
            plan = self._dense_plan(len(wanted))
        if plan.order is not None:
            alpha, beta = alpha.index_select(0, plan.order), beta.index_select(0, plan.order)
            wanted, top = wanted[plan.order], top[plan.order]
        mass_a = self.to_a(beta, plan).mul_(alpha)
        mass_b = self.to_b(alpha, plan).mul_(beta)
        total = mass_a.sum(-1).double()  # pairwise sums, each as good as its type
        log_states = math.log(len(self.half_a)) + math.log(len(self.half_b))
        log_lost = _LOG_TINY[dtype] + self.kernel.exponent_bound + log_states
        safe = total.log() >= log_lost - math.log(_SLACK)
        linear = Linear(wanted, alpha, beta, mass_a, mass_b, total, plan)
        if not bool(safe.all()):  # the others leave, so that the groups no longer hold
            whole = self._dense_plan(int(safe.sum()))
            linear = Linear(
                wanted[safe],
                alpha[safe],
                beta[safe],
                mass_a[safe],
                mass_b[safe],
                total[safe],
                whole,
            )
        out.log_partition[linear.images] = linear.total.log() + top[safe]
        out.dropped[linear.images] = plan.dropped[safe]
        out.level[linear.images] = level
        out.linear.append(linear)
        return wanted[~safe]

    def _dense_plan(self, num_images: int) -> Plan:
        return dense_plan(num_images, self.kernel.shape, device=self._matrix.device)

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
        log_alpha = self.half_a.log_scores(one.unary, one.known)[0] - self.constant
        log_beta = self.half_b.log_scores(one.unary, one.known)[0]
        rows = max(1, _BLOCK // len(self.half_b))
        for start in range(0, len(self.half_a), rows):
            wanted = slice(start, start + rows)
            exponents = self.kernel.exponents(self.half_a.states[wanted])
            yield wanted, exponents + log_alpha[wanted, None] + log_beta

    def joint(self, scores: Scores, sums: Sums, image: int) -> Iterator[tuple[slice, Tensor]]:
        """Probability of every state of one image, by rows of half-states of A: (rows, S_B)."""
        for rows, joint in self._joint_blocks(scores, image):
            yield rows, (joint - sums.log_partition[image]).exp()

    def pair_sums(self, scores: Scores, sums: Sums, weight: Tensor) -> Tensor:
        """sum_n weight_n P_n(y_i = 1, y_j = 1) for all pairs, the diagonal included: (L, L).

        Cost: one product of S_A x N with N x S_B, 2 N S_A S_B operations.
        """
        a, b = self.half_a.labels, self.half_b.labels
        result = torch.zeros_like(self._matrix)
        for which, half in enumerate((self.half_a, self.half_b)):
            for images, mass, total in sums.masses(which):
                each = (weight[images] / total).to(mass) @ mass
                inside = half.states.T @ (each.double()[:, None] * half.states)
                result[half.labels[:, None], half.labels] += inside
        between = torch.zeros_like(self._between)
        for linear in sums.linear:
            between += self._between_linear(linear, weight[linear.images] / linear.total)
        for image in sums.logs:
            for rows, mass in self.joint(scores, sums, image):
                on_b = mass @ self.half_b.states
                between += weight[image] * (self.half_a.states[rows].T @ on_b)
        result[a[:, None], b] = between
        result[b[:, None], a] = between.T
        return result

    def _between_linear(self, linear: Linear, scale: Tensor) -> Tensor:
        dtype = linear.alpha.dtype
        weighted = linear.alpha * scale[:, None].to(dtype)
        states_b = self.half_b.states.to(dtype)
        total = torch.zeros_like(self._between)
        for at, rows in enumerate(linear.plan.rows):
            block = self.kernel.block(rows, dtype)
            mass = torch.zeros_like(block)
            for images, runs in linear.plan.runs(at):
                for columns in runs:
                    mass[:, columns].addmm_(weighted[images, rows].T, linear.beta[images, columns])
            on_b = mass.mul_(block) @ states_b
            total += self.half_a.states[rows].T @ on_b.double()
        return total
