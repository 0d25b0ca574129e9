"""Random CRFs, and how tests compare with the oracle."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mlcrf.crf import Potentials, full_edges
from mlcrf.images import Image, as_image
from tests.oracle import Oracle


def images_of(paths: Iterable[Path]) -> list[Image]:
    return [as_image(path) for path in paths]


def make_potentials(
    num_images: int = 3,
    num_labels: int = 5,
    *,
    unary: float = 1.0,
    pairwise: float = 0.5,
    varies: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Potentials:
    """Potentials uniform on plus or minus the given sizes; all pairs, but none of size 0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) - 1

    edges = full_edges(num_labels) if pairwise else torch.empty((0, 2), dtype=torch.int64)
    shape = (num_images, len(edges)) if varies else (len(edges),)
    return Potentials(unary * draw(num_images, num_labels), edges, pairwise * draw(*shape))


def draw_known(potentials: Potentials, *, num_unknown: int, seed: int = 1) -> Tensor:
    """Random known values of all but some labels, different ones for each image."""
    generator = torch.Generator().manual_seed(seed)
    shape = potentials.unary.shape
    known = torch.randint(0, 2, shape, generator=generator)
    order = torch.rand(shape, generator=generator).argsort(1)
    return known.scatter(1, order[:, :num_unknown], -1)


def expected(values: list[Oracle], name: str, like: Tensor) -> Tensor:
    """One quantity of every oracle, as a tensor of a type like another's."""
    return torch.tensor([getattr(one, name) for one in values], dtype=like.dtype)


def close(actual: Tensor, wanted: Tensor, tolerance: float | Tensor) -> None:
    """Assert the same shape and type, and no difference above the tolerance."""
    assert actual.shape == wanted.shape
    assert actual.dtype == wanted.dtype
    error = (actual - wanted).abs()
    assert bool((error <= tolerance).all()), f"{error} above {tolerance}"
