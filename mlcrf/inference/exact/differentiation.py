"""Gradients of log Z, which are marginals, and of marginals, which are covariances.

The marginals of labels and edges are the gradient of log Z, so a first derivative needs no graph of
the sum. That of marginals, weighted by g_i and h_ij, is a covariance under the CRF,

    d / d theta  sum_i g_i P(y_i = 1) + sum_ij h_ij P(y_i = y_j = 1)
        = Cov(sum_i g_i y_i + sum_ij h_ij y_i y_j, d log_score(y) / d theta)

and autograd finds it from a sum that is made again, only if it is asked for. log Z has second
derivatives in the same way.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor

from mlcrf.errors import GradientError

Beliefs = tuple[Tensor, Tensor, Tensor]  # log Z (n,), marginals (n, L), of edges (n, E) or (n, 0)


class StateSums(Protocol):
    """Sums over the states of a batch of CRFs, in operations that autograd can follow."""

    @property
    def parts(self) -> list[slice]:
        """The images that are done together."""
        ...

    def __call__(
        self, rows: slice, unary: Tensor, pairwise: Tensor, *, pairs_wanted: bool
    ) -> Beliefs:
        """Return the beliefs of some of the images, given the potentials of all."""
        ...


class Refused(torch.autograd.Function):
    """Values that depend on others but have no gradient here; backward raises a GradientError."""

    @staticmethod
    def forward(ctx: Any, message: str, values: Tensor, *_: Tensor) -> Tensor:
        ctx.message = message
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        raise GradientError(ctx.message)


Backward = Callable[..., tuple[Tensor | None, ...]]


def last_derivative(message: str) -> Callable[[Backward], Backward]:
    """Let the results of a backward pass have no gradient, with an error that says why.

    They are computed in the precision of the tensors, under autocast as well.
    """

    def decorate(backward: Backward) -> Backward:
        @wraps(backward)
        def refusing(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            with torch.no_grad(), torch.autocast(grads[0].device.type, enabled=False):
                found = backward(ctx, *grads)
            if not torch.is_grad_enabled():
                return found
            return tuple(
                None if one is None else Refused.apply(message, one, *grads, *ctx.saved_tensors)
                for one in found
            )

        return refusing

    return decorate


class LogPartition(torch.autograd.Function):
    """Log Z, marginals and pairwise marginals; these are the gradient of log Z."""

    @staticmethod
    def forward(
        ctx: Any, unary: Tensor, pairwise: Tensor, sums: StateSums, pairs_wanted: bool
    ) -> Beliefs:
        wanted = pairs_wanted or ctx.needs_input_grad[1]
        log_partition, marginals, pairs = _evaluate(unary, pairwise, sums, pairs_wanted=wanted)
        ctx.sums = sums
        ctx.save_for_backward(unary, pairwise, marginals, pairs)
        ctx.mark_non_differentiable(marginals, pairs)
        return log_partition, marginals, pairs

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        unary, pairwise, marginals, pairs = ctx.saved_tensors
        if torch.is_grad_enabled():
            marginals, pairs = Moments.apply(unary, pairwise, ctx.sums, marginals, pairs)
        return *log_partition_gradient(grad, marginals, pairs, pairwise), None, None


class Moments(torch.autograd.Function):
    """Marginals of labels and edges that are known already, with their gradient."""

    @staticmethod
    def forward(
        ctx: Any, unary: Tensor, pairwise: Tensor, sums: StateSums, marginals: Tensor, pairs: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.sums = sums
        ctx.save_for_backward(unary, pairwise)
        return marginals.clone(), pairs.clone()

    @staticmethod
    @last_derivative("exact inference: log Z has two derivatives, and marginals one; not more")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [one.detach().requires_grad_() for one in ctx.saved_tensors]
        totals = [torch.zeros_like(one) for one in leaves]
        pairs_wanted = grads[1].shape[1] > 0
        for rows in ctx.sums.parts:
            with torch.enable_grad():
                _, *moments = ctx.sums(rows, *leaves, pairs_wanted=pairs_wanted)
            weights = [grad[rows] for grad in grads]
            found = torch.autograd.grad(
                moments[: 1 + pairs_wanted],
                leaves,
                weights[: 1 + pairs_wanted],
                allow_unused=True,
            )
            totals = [
                total if one is None else total + one
                for total, one in zip(totals, found, strict=True)
            ]
        return *totals, None, None, None


def moments(unary: Tensor, pairwise: Tensor, sums: StateSums) -> tuple[Tensor, Tensor]:
    """Return marginals of labels (N, L) and edges (N, E), with their gradient."""
    with torch.no_grad():
        _, marginals, pairs = _evaluate(unary, pairwise, sums, pairs_wanted=True)
    with_gradient: tuple[Tensor, Tensor] = Moments.apply(unary, pairwise, sums, marginals, pairs)
    return with_gradient


def log_partition_gradient(
    grad: Tensor, marginals: Tensor, pairs: Tensor, pairwise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient in unaries and couplings of log Z weighted by `grad` (N,)."""
    if not pairs.shape[1]:
        return grad[:, None] * marginals, torch.zeros_like(pairwise)
    of_edges = grad @ pairs if pairwise.ndim == 1 else grad[:, None] * pairs
    return grad[:, None] * marginals, of_edges


def _evaluate(unary: Tensor, pairwise: Tensor, sums: StateSums, *, pairs_wanted: bool) -> Beliefs:
    none = unary[:0, 0], unary[:0], unary.new_empty(0, pairwise.shape[-1] if pairs_wanted else 0)
    parts = [sums(rows, unary, pairwise, pairs_wanted=pairs_wanted) for rows in sums.parts]
    log_partition, marginals, pairs = map(torch.cat, zip(none, *parts, strict=True))
    return log_partition, marginals, pairs
