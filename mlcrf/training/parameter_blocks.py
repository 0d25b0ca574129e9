"""Invertible linear maps between a model's parameters and parts of a flat vector."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Block(ABC):
    """Some parameters as a function of a part of the flat vector.

    Attributes:
        size: length of the part.
        is_nonnegative: whether the numbers of the part must be at least 0.
    """

    size: int
    is_nonnegative = False

    @abstractmethod
    def parameters(self) -> Tensor:
        """Return the part that gives the current values, float64 (size,)."""

    @abstractmethod
    def assign(self, part: Tensor) -> None:
        """Set the parameters from a part."""

    @abstractmethod
    def gradient(self) -> Tensor:
        """Return the gradient by the part, from the parameters' gradient, float64 (size,)."""


class Scaled(Block):
    """parameter = scale * part."""

    def __init__(self, parameter: Tensor, scale: Tensor) -> None:
        self._parameter = parameter
        self._scale = scale.double().expand(parameter.shape)
        self.size = parameter.numel()

    def parameters(self) -> Tensor:
        return (self._parameter.detach().double() / self._scale).reshape(-1)

    def assign(self, part: Tensor) -> None:
        self._parameter.copy_(self._scale * part.view_as(self._parameter))

    def gradient(self) -> Tensor:
        return (self._scale * _gradient_of(self._parameter)).reshape(-1)


class Signed(Block):
    """parameter = scale * (first half of the part - second half), both at least 0.

    A penalty on the size of the parameters is linear in the part,

        strength * sum |parameter| = strength * sum scale * (first + second)

    where one of the two is 0, as at the optimum; `gradient` includes the penalty.
    """

    is_nonnegative = True

    def __init__(self, parameter: Tensor, scale: Tensor, strength: float) -> None:
        self._inner = Scaled(parameter, scale)
        self._cost = strength * scale.double()
        self.size = 2 * parameter.numel()

    def parameters(self) -> Tensor:
        position = self._inner.parameters()
        return torch.cat([position.clamp(min=0), (-position).clamp(min=0)])

    def assign(self, part: Tensor) -> None:
        above, below = part.chunk(2)
        self._inner.assign(above - below)

    def gradient(self) -> Tensor:
        gradient = self._inner.gradient()
        return torch.cat([gradient + self._cost, self._cost - gradient])


class Rotated(Block):
    """parameter = basis @ (scale * part), with an orthogonal basis."""

    def __init__(self, parameter: Tensor, basis: Tensor, scale: Tensor) -> None:
        self._parameter, self._basis, self._scale = parameter, basis, scale.double()
        self.size = parameter.numel()

    def parameters(self) -> Tensor:
        return ((self._basis.T @ self._parameter.detach().double()) / self._scale).reshape(-1)

    def assign(self, part: Tensor) -> None:
        self._parameter.copy_(self._basis @ (self._scale * part.view_as(self._parameter)))

    def gradient(self) -> Tensor:
        return (self._scale * (self._basis.T @ _gradient_of(self._parameter))).reshape(-1)


class Mixed(Block):
    """Concatenated vectors = C^(-1/2) @ part.

    Args:
        moments: C, symmetric and positive definite, float64.
    """

    def __init__(self, parameters: tuple[Tensor, ...], moments: Tensor) -> None:
        self._parameters = parameters
        values, vectors = torch.linalg.eigh(moments)
        self._mixing = vectors * values.rsqrt()
        self._unmixing = (vectors * values.sqrt()).T
        self.size = len(moments)

    def parameters(self) -> Tensor:
        together = torch.cat([one.detach().double() for one in self._parameters])
        position: Tensor = self._unmixing @ together
        return position

    def assign(self, part: Tensor) -> None:
        sizes = [len(one) for one in self._parameters]
        values = torch.split(self._mixing @ part, sizes)
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def gradient(self) -> Tensor:
        gradient: Tensor = self._mixing.T @ torch.cat(
            [_gradient_of(one) for one in self._parameters]
        )
        return gradient


def _gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.double()
