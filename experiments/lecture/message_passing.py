"""Backpropagation as message passing on any directed acyclic graph of layers.

    forward    M_c = bias_c + sum over parents p of W_cp h_p(M_p);  of an input M = x, h(x) = x
    backward   V_c = df/dM_c + h_c'(M_c) sum over children c' of W_c'c^T V_c'
    gradient   of W_cp is V_c h_p(M_p)^T, of bias_c is V_c

Layers may skip others, share parents and have any differentiable non-linearity, and a loss may look
at the messages of several of them. No automatic differentiation is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import torch
from torch import Tensor

Edge = tuple[str, str]  # child, parent


@dataclass(frozen=True)
class Activation:
    """A function of single numbers and its slope."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


IDENTITY = Activation(lambda m: m, torch.ones_like)
TANH = Activation(torch.tanh, lambda m: 1 - m.tanh().square())
SIGMOID = Activation(torch.sigmoid, lambda m: m.sigmoid() * (1 - m.sigmoid()))
SOFTPLUS = Activation(torch.nn.functional.softplus, torch.sigmoid)
SINE = Activation(torch.sin, torch.cos)


@dataclass(frozen=True)
class Layer:
    """Some units.

    Attributes:
        size: how many.
        parents: layers that it hears of; none for an input.
        activation: h, applied to its message by those that hear of it.
    """

    size: int
    parents: Sequence[str] = ()
    activation: Activation = IDENTITY


@dataclass(frozen=True)
class Network:
    """Layers by name, with a weight matrix an edge, (size of child, size of parent)."""

    layers: Mapping[str, Layer]
    weights: dict[Edge, Tensor]
    biases: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def random(cls, layers: Mapping[str, Layer], *, seed: int) -> "Network":
        """Weights N(0, 1 / size of parent) and biases N(0, 0.01), float64."""
        draw = torch.Generator().manual_seed(seed)
        weights, biases = {}, {}
        for name, layer in layers.items():
            for parent in layer.parents:
                shape = (layer.size, layers[parent].size)
                made = torch.randn(shape, generator=draw, dtype=torch.float64)
                weights[name, parent] = made / shape[1] ** 0.5
            if layer.parents:
                made = torch.randn(layer.size, generator=draw, dtype=torch.float64)
                biases[name] = made / 10
        return cls(layers, weights, biases)

    @property
    def order(self) -> list[str]:
        """Parents before children."""
        parents = {name: layer.parents for name, layer in self.layers.items()}
        return list(TopologicalSorter(parents).static_order())

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The message of every layer, (N, size), from those of the inputs."""
        messages = dict(inputs)
        for name in self.order:
            if self.layers[name].parents:
                heard = self.biases[name]
                for parent in self.layers[name].parents:
                    heard = heard + self._heard(messages, parent) @ self.weights[name, parent].T
                messages[name] = heard
        return messages

    def backward(
        self, messages: Mapping[str, Tensor], slopes: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The backward message of every layer, (N, size): the loss's slope in its message.

        Args:
            slopes: df/dM of the layers that the loss looks at.
        """
        back: dict[str, Tensor] = {}
        for name in reversed(self.order):
            layer, message = self.layers[name], messages[name]
            said = torch.zeros_like(message)
            for child, parent in self.weights:
                if parent == name:
                    said = said + back[child] @ self.weights[child, name]
            back[name] = layer.activation.slope(message) * said
            if name in slopes:
                back[name] = back[name] + slopes[name]
        return back

    def gradients(
        self, messages: Mapping[str, Tensor], back: Mapping[str, Tensor]
    ) -> tuple[dict[Edge, Tensor], dict[str, Tensor]]:
        """Return the gradients of the weights and of the biases, summed over the N examples."""
        of_weights = {
            (child, parent): back[child].T @ self._heard(messages, parent)
            for child, parent in self.weights
        }
        return of_weights, {name: back[name].sum(0) for name in self.biases}

    def _heard(self, messages: Mapping[str, Tensor], name: str) -> Tensor:
        return self.layers[name].activation.value(messages[name])
