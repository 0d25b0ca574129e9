"""Forward and reverse mode: what a gradient costs in each, and what it must remember."""

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

Loss = Callable[[Tensor], Tensor]

_EXAMPLES = 4096


def make_loss(num_parameters: int, depth: int, seed: int = 0) -> tuple[Loss, Tensor]:
    """A network's loss as a function of one vector of about so many weights, and a point."""
    width = max(1, round((num_parameters / depth) ** 0.5))
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(_EXAMPLES, width, generator=draw, dtype=torch.float64)
    targets = torch.randn(_EXAMPLES, generator=draw, dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        hidden = x
        for matrix in weights.view(depth, width, width):
            hidden = (hidden @ matrix).tanh()
        return (hidden.sum(1) - targets).square().mean()

    point = torch.randn(depth * width * width, generator=draw, dtype=torch.float64) / width**0.5
    return loss, point


def forward_gradient(loss: Loss, point: Tensor) -> Tensor:
    """One directional derivative for every coordinate."""
    directions = torch.eye(len(point), dtype=point.dtype)
    return torch.stack([jvp(loss, (point,), (one,))[1] for one in directions])


def hessian_product(loss: Loss, point: Tensor, direction: Tensor) -> Tensor:
    """Forward mode over reverse mode: the Hessian itself is never made."""
    return jvp(grad(loss), (point,), (direction,))[1]


def remembered(loss: Loss, point: Tensor) -> int:
    """Bytes that reverse mode stores between its two passes, each array counted once."""
    kept: dict[int, int] = {}

    def keep(array: Tensor) -> Tensor:
        kept[array.untyped_storage().data_ptr()] = array.untyped_storage().nbytes()
        return array

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda array: array):
        loss(point.clone().requires_grad_())
    return sum(kept.values())


def check(num_parameters: int = 48) -> dict[str, float]:
    """Largest differences: forward from reverse mode, Hessian-vector product from the Hessian."""
    loss, point = make_loss(num_parameters, depth=3)
    direction = torch.linspace(-1, 1, len(point), dtype=point.dtype)
    full = hessian(loss)(point) @ direction
    directions = torch.eye(len(point), dtype=point.dtype)
    batched = vmap(lambda one: jvp(loss, (point,), (one,))[1])(directions)
    reverse = grad(loss)(point)
    return {
        "forward_error": float((forward_gradient(loss, point) - reverse).abs().max()),
        "batched_forward_error": float((batched - reverse).abs().max()),
        "hessian_product_error": float(
            (hessian_product(loss, point, direction) - full).abs().max()
        ),
    }


def cost_rows(*, quick: bool) -> list[dict[str, Any]]:
    """Times over that of the function, and bytes, against the number of parameters and depth.

    On one thread: the products are small, and to wake a second one takes as long as some of them.
    """
    wide = [(48, 3), (192, 3), (768, 3), (3072, 3)][: 2 if quick else 4]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = [_costs(*make_loss(*size), depth=size[1]) for size in (*wide, (768, 12), (768, 48))]
    torch.set_num_threads(threads)
    return rows


def _costs(loss: Loss, point: Tensor, *, depth: int, turns: int = 15) -> dict[str, Any]:
    direction = torch.ones_like(point)
    calls: dict[str, Callable[[], object]] = {
        "function": lambda: loss(point),
        "reverse": lambda: grad(loss)(point),
        "forward_product": lambda: jvp(loss, (point,), (direction,)),
        "hessian_product": lambda: hessian_product(loss, point, direction),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):  # the first to warm up
        for name, call in calls.items():
            began = perf_counter()
            call()
            if turn:
                seconds[name].append(perf_counter() - began)
    ratio = {
        name: statistics.median(a / b for a, b in zip(taken, seconds["function"], strict=True))
        for name, taken in seconds.items()
    }
    return {
        "parameters": len(point),
        "depth": depth,
        "reverse": ratio["reverse"],
        "forward_product": ratio["forward_product"],
        "forward_gradient": len(point) * ratio["forward_product"],
        "hessian_product": ratio["hessian_product"],
        "remembered_kb": remembered(loss, point) / 1000,
    }
