"""Pictures to compare an exported graph with mlcrf on: drawn ones, or some of a user's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.images.decoding import load_pixels
from mlcrf.images.listing import walk_images
from mlcrf.synthetic.planted import make_planted_crf
from mlcrf.synthetic.scenes import draw_scene

NUM_PICTURES = 16

Pixels = dict[int, NDArray[np.uint8]]  # (N, size, size, 3) by size


def draw_pictures(sizes: Sequence[int]) -> Pixels:
    """Drawn scenes, the same every time, of each size."""
    planted = make_planted_crf()
    states = planted.sample(NUM_PICTURES, np.random.default_rng(0))
    return {
        size: np.stack(
            [
                np.asarray(
                    draw_scene(state, planted, np.random.default_rng(at), image_size_px=size)
                )
                for at, state in enumerate(states)
            ]
        )
        for size in sizes
    }


def load_pictures(place: Path, sizes: Sequence[int]) -> Pixels:
    """The first few photos of a folder that can be read, or one photo, squeezed to each size.

    Raises:
        DataError: there is none; says why for the first.
    """
    loaded: list[list[NDArray[np.uint8]]] = []
    first_error: DataError | None = None
    for image in walk_images(place) if place.is_dir() else [as_image(place)]:
        try:
            loaded.append([load_pixels(image, size) for size in sizes])
        except DataError as error:
            first_error = first_error or error
        if len(loaded) == NUM_PICTURES:
            break
    if not loaded:
        raise first_error or DataError(f"{place}: no pictures found")
    return {
        size: np.stack(each) for size, each in zip(sizes, zip(*loaded, strict=True), strict=True)
    }
