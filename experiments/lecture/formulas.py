"""Every formula of the slides on backpropagation beside its check: the wrong ones fail.

The network of the slides, y = v^T h(W3 h(W2 h(W1 x))), one example, loss f(y) = (y - t)^2 / 2. W1,
W2, W3 are stored child by parent, as in M_c = sum_p W_cp h(M_p); the slides' W^3_{c'c} is then
W3[c, c']. All layers have the same size, so that a formula with its indices the wrong way round can
be computed.
"""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

_SIZE, _TARGET, _STEP = 5, 0.7, 1e-6


@dataclass
class Slides:
    """Parameters and input."""

    v: Tensor
    w3: Tensor
    w2: Tensor
    w1: Tensor
    x: Tensor


def h(m: Tensor) -> Tensor:
    """The non-linearity."""
    return m.tanh()


def slope(m: Tensor) -> Tensor:
    """h'."""
    return 1 - m.tanh().square()


def loss(net: Slides) -> Tensor:
    """f(y)."""
    return (net.v @ h(net.w3 @ h(net.w2 @ h(net.w1 @ net.x))) - _TARGET).square() / 2


def differences(net: Slides, name: str) -> Tensor:
    """The gradient of one parameter by central differences."""
    parameter = getattr(net, name)
    result = torch.zeros_like(parameter)
    for at in range(parameter.numel()):
        both = []
        for sign in (1, -1):
            changed = parameter.clone()
            changed.view(-1)[at] += sign * _STEP
            both.append(loss(Slides(**{**_as_dict(net), name: changed})))
        result.view(-1)[at] = (both[0] - both[1]) / (2 * _STEP)
    return result


def check_formulas(seed: int = 0) -> list[dict[str, Any]]:
    """A row a formula: as printed and put right, each with its largest error, None where none.

    Gradients are compared with central differences, values with the nested sums of the first slide.
    """
    draw = torch.Generator().manual_seed(seed)
    square = (_SIZE, _SIZE)
    shapes = {"v": (_SIZE,), "w3": square, "w2": square, "w1": square, "x": (_SIZE,)}
    net = Slides(
        **{n: torch.randn(s, generator=draw, dtype=torch.float64) for n, s in shapes.items()}
    )
    m1 = net.w1 @ net.x  # M_c''
    m2 = net.w2 @ h(m1)  # M_c'
    m3 = net.w3 @ h(m2)  # M_c
    m_y = net.v @ h(m3)
    v_y = m_y - _TARGET  # f'(M_y)
    v3 = slope(m3) * net.v * v_y
    v2 = slope(m2) * (net.w3.T @ v3)
    v1 = slope(m1) * (net.w2.T @ v2)
    truth = {name: differences(net, name) for name in ("v", "w3", "w2", "w1")}
    nested = net.v @ h(net.w3 @ h(net.w2 @ h(net.w1 @ net.x)))
    z3 = h(net.w3 @ h(net.w2 @ h(net.w1 @ net.x)))
    return [
        _row("M_c = sum_p W_cp h(M_p), the last is y", "", m_y, None, nested),
        _row("df/dv_c = h(M_c) f'(M_y)", "", h(m3) * v_y, None, truth["v"]),
        _row("messages are the z values", "z = h(M)", m3, h(m3), z3),
        _row(
            "df/dW3 = h(M_c') h'(M_c) w_c f'(M_y)",
            "w_c is v_c; with w = 1 as printed",
            torch.outer(slope(m3) * v_y, h(m2)),
            torch.outer(slope(m3) * net.v * v_y, h(m2)),
            truth["w3"],
        ),
        _row(
            "df/dW2 = h(M_c'') h'(M_c') sum_c W3_c'c V_c",
            "",
            torch.outer(slope(m2) * (net.w3.T @ v3), h(m1)),
            None,
            truth["w2"],
        ),
        _row(
            "df/dW1 = h(M_j) h'(M_c'') sum_c' W2_c''c' V_c', M_j = x_j",
            "plain x_j in the first layer",
            torch.outer(v1, h(net.x)),
            torch.outer(v1, net.x),
            truth["w1"],
        ),
        _row(
            "V_c = h'(M_c) sum_c' W_cc' V_c'",
            "W_c'c in the order of M_c = sum_p W_cp h(M_p)",
            torch.outer(slope(m2) * (net.w3 @ v3), h(m1)),
            torch.outer(v2, h(m1)),
            truth["w2"],
        ),
        _row(
            "the gradient of W_cp is h(M_c) V_p",
            "h(M_p) V_c",
            torch.outer(h(m3), v2),
            torch.outer(v3, h(m2)),
            truth["w3"],
        ),
        _row(
            "the same in the first layer",
            "x_p V_c",
            torch.outer(h(m1), net.w1.T @ v1),
            torch.outer(v1, net.x),
            truth["w1"],
        ),
        _row(
            "neural field: v^T h(W3 h(W2 (W1 x)))",
            "v^T h(W3 h(W2 h(W1 x)))",
            net.v @ h(net.w3 @ h(net.w2 @ (net.w1 @ net.x))),
            net.v @ h(net.w3 @ h(net.w2 @ h(net.w1 @ net.x))),
            nested,
        ),
    ]


def _row(
    formula: str, put_right: str, printed: Tensor, right: Tensor | None, truth: Tensor
) -> dict[str, Any]:
    return {
        "formula": formula,
        "printed_error": float((printed - truth).abs().max()),
        "put_right": put_right or None,
        "right_error": None if right is None else float((right - truth).abs().max()),
    }


def _as_dict(net: Slides) -> dict[str, Tensor]:
    return {one.name: getattr(net, one.name) for one in fields(net)}
