"""Invertible linear maps between a model's parameters and parts of a flat vector."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Block(ABC):
    """Some parameters as a function of a part of the vector.

    Attributes:
        size: of the part.
        is_signed: whether the part may hold no number below 0.
    """

    size: int
    is_signed = False

    @abstractmethod
    def position(self) -> Tensor:
        """The part that gives the parameters as they are, float64 (size,)."""

    @abstractmethod
    def assign(self, part: Tensor) -> None:
        """Set the parameters."""

    @abstractmethod
    def slope(self) -> Tensor:
        """The gradient along the part, from the parameters' own, float64 (size,)."""


class Scaled(Block):
    """parameter = scale * part."""

    def __init__(self, parameter: Tensor, scale: Tensor) -> None:
        self._parameter = parameter
        self._scale = scale.double().expand(parameter.shape)
        self.size = parameter.numel()

    def position(self) -> Tensor:
        """Parameters over scale."""
        return (self._parameter.detach().double() / self._scale).reshape(-1)

    def assign(self, part: Tensor) -> None:
        """Scale times part."""
        self._parameter.copy_(self._scale * part.view_as(self._parameter))

    def slope(self) -> Tensor:
        """Scale times gradient."""
        return (self._scale * gradient(self._parameter)).reshape(-1)


class Signed(Block):
    """parameter = scale * (first half of the part - second half), neither below 0.

    A penalty on the size of the parameters is linear in them,

        strength * sum |parameter| = strength * sum scale * (first + second)

    where one of the two is 0, as it is at the optimum; `slope` includes it.
    """

    is_signed = True

    def __init__(self, parameter: Tensor, scale: Tensor, strength: float) -> None:
        self._inner = Scaled(parameter, scale)
        self._cost = strength * scale.double()
        self.size = 2 * parameter.numel()

    def position(self) -> Tensor:
        """What is above 0 and what is below."""
        position = self._inner.position()
        return torch.cat([position.clamp(min=0), (-position).clamp(min=0)])

    def assign(self, part: Tensor) -> None:
        """Scale times the difference of the halves."""
        above, below = part.chunk(2)
        self._inner.assign(above - below)

    def slope(self) -> Tensor:
        """Of both halves, with the penalty."""
        slope = self._inner.slope()
        return torch.cat([slope + self._cost, self._cost - slope])


class Rotated(Block):
    """parameter = basis @ (scale * part), for a matrix of weights and an orthogonal basis."""

    def __init__(self, parameter: Tensor, basis: Tensor, scale: Tensor) -> None:
        self._parameter, self._basis, self._scale = parameter, basis, scale.double()
        self.size = parameter.numel()

    def position(self) -> Tensor:
        """The inverse."""
        return ((self._basis.T @ self._parameter.detach().double()) / self._scale).reshape(-1)

    def assign(self, part: Tensor) -> None:
        """By the formula."""
        self._parameter.copy_(self._basis @ (self._scale * part.view_as(self._parameter)))

    def slope(self) -> Tensor:
        """By its transpose."""
        return (self._scale * (self._basis.T @ gradient(self._parameter))).reshape(-1)


class Mixed(Block):
    """All of some vectors together = C^(-1/2) @ part.

    Args:
        moments: C, symmetric and positive definite, float64.
    """

    def __init__(self, parameters: tuple[Tensor, ...], moments: Tensor) -> None:
        self._parameters = parameters
        values, vectors = torch.linalg.eigh(moments)
        self._mixing = vectors * values.rsqrt()
        self._unmixing = (vectors * values.sqrt()).T
        self.size = len(moments)

    def position(self) -> Tensor:
        """The inverse."""
        together = torch.cat([one.detach().double() for one in self._parameters])
        position: Tensor = self._unmixing @ together
        return position

    def assign(self, part: Tensor) -> None:
        """By the formula."""
        sizes = [len(one) for one in self._parameters]
        values = torch.split(self._mixing @ part, sizes)
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def slope(self) -> Tensor:
        """By its transpose."""
        slope: Tensor = self._mixing.T @ torch.cat([gradient(one) for one in self._parameters])
        return slope


def gradient(parameter: Tensor) -> Tensor:
    """What backward left, float64."""
    assert parameter.grad is not None
    return parameter.grad.double()
