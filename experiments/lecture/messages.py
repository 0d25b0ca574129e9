"""Message passing on any graph of layers, against autograd and finite differences."""

from typing import Any

import torch
from torch import Tensor

from experiments.lecture.message_passing import SINE, SOFTPLUS, TANH, Layer, Network

GRAPHS = {
    "chain of the slides": {
        "x": Layer(4),
        "z1": Layer(5, ("x",), TANH),
        "z2": Layer(5, ("z1",), TANH),
        "z3": Layer(5, ("z2",), TANH),
        "y": Layer(1, ("z3",)),
    },
    "skips": {
        "x": Layer(4),
        "z1": Layer(6, ("x",), TANH),
        "z2": Layer(5, ("z1", "x"), SOFTPLUS),
        "z3": Layer(3, ("z2", "z1", "x"), SINE),
        "y": Layer(2, ("z3", "x")),
    },
    "two inputs, three outputs, one of them heard of too": {
        "x": Layer(4),
        "w": Layer(3),
        "z1": Layer(5, ("x", "w"), SINE),
        "y1": Layer(2, ("z1",), TANH),
        "z2": Layer(4, ("y1", "w"), SOFTPLUS),
        "y2": Layer(3, ("z2",)),
        "y3": Layer(1, ("z2", "y1")),
    },
}


def rows(examples: int = 7) -> list[dict[str, Any]]:
    """Largest errors of the gradients of all weights and biases, and of messages."""
    found = []
    for name, layers in GRAPHS.items():
        network = Network.random(layers, seed=1)
        draw = torch.Generator().manual_seed(2)
        inputs, targets = {}, {}
        for layer_name, layer in layers.items():
            made = torch.randn(examples, layer.size, generator=draw, dtype=torch.float64)
            if not layer.parents:
                inputs[layer_name] = made
            elif layer_name.startswith("y"):
                targets[layer_name] = made
        by_autograd, by_differences = _others(network, inputs, targets)
        messages = network.forward(inputs)
        back = network.backward(messages, {n: messages[n] - t for n, t in targets.items()})
        of_weights, of_biases = network.gradients(messages, back)
        ours = [*of_weights.values(), *of_biases.values()]
        found.append(
            {
                "graph": name,
                "layers": len(layers),
                "edges": len(network.weights),
                "outputs": len(targets),
                "autograd_error": _largest(ours, by_autograd),
                "difference_error": _largest(ours, by_differences),
            }
        )
    return found


def loss(network: Network, inputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Half the squared errors of all outputs."""
    messages = network.forward(inputs)
    return torch.stack([(messages[n] - t).square().sum() / 2 for n, t in targets.items()]).sum()


def _others(
    network: Network, inputs: dict[str, Tensor], targets: dict[str, Tensor], step: float = 1e-6
) -> tuple[list[Tensor], list[Tensor]]:
    parameters = [*network.weights.values(), *network.biases.values()]
    for one in parameters:
        one.requires_grad_()
    by_autograd = list(torch.autograd.grad(loss(network, inputs, targets), parameters))
    by_differences = []
    with torch.no_grad():
        for one in parameters:
            slopes = torch.empty_like(one)
            for at in range(one.numel()):
                flat, values = one.view(-1), []
                before = float(flat[at])
                for sign in (1, -1):
                    flat[at] = before + sign * step
                    values.append(float(loss(network, inputs, targets)))
                flat[at] = before
                slopes.view(-1)[at] = (values[0] - values[1]) / (2 * step)
            by_differences.append(slopes)
    for one in parameters:
        one.requires_grad_(False)
    return by_autograd, by_differences


def _largest(ours: list[Tensor], others: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, others, strict=True))
