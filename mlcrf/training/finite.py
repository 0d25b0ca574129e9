"""Check that numbers are finite before they are used or saved."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mlcrf.errors import PotentialsError, RunError

_REMEDY = "lower --set learning_rate where a network learned, else raise --set penalties"


def require_finite(title: str, values: object) -> None:
    """Raise RunError for NaN or infinity in tensors, numbers, and lists and dicts of them."""
    for place, value in _leaves("", values):
        if isinstance(value, float):
            finite = math.isfinite(value)
        else:
            finite = bool(torch.isfinite(value).all())
        if not finite:
            raise RunError(f"{title}: {place} is NaN or infinite and was not kept; {_REMEDY}")


@contextmanager
def diverging(title: str) -> Iterator[None]:
    """Name the part of the training in errors about values that are not finite."""
    try:
        yield
    except PotentialsError as error:
        raise RunError(f"{title}: diverged ({error}); {_REMEDY}") from error
    except RunError as error:
        raise RunError(f"{title}: {error}") from error


def _leaves(place: str, value: object) -> Iterator[tuple[str, Tensor | float]]:
    """Yield tensors and numbers, each with its path of keys."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in items:
            yield from _leaves(f"{place}.{key}" if place else str(key), one)
    elif isinstance(value, Tensor | float):
        yield place, value
