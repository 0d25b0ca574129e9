"""The interface of what gives features of images: a network, or a table that holds them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.registry import BackboneSpec
from mlcrf.data.problems import Problems
from mlcrf.errors import DataError
from mlcrf.images import Image

Feature = NDArray[np.float32]
Decoded = tuple[NDArray[np.uint8], ...]  # pixels for each network of a backbone


class FeatureSource(ABC):
    """Features of images, one by one or as a matrix.

    Attributes:
        num_workers: number of threads that decode images.
    """

    num_workers: int

    @property
    @abstractmethod
    def spec(self) -> BackboneSpec:
        """Where the features come from."""

    @abstractmethod
    def stream(self, images: Iterable[Image]) -> Generator[Feature | DataError, None, None]:
        """Yield for each image its features (D,), all finite, or an error."""

    @abstractmethod
    def decode(self, image: Image) -> Decoded | DataError:
        """Decode an image for `of_decoded`, or return the error; thread-safe."""

    @abstractmethod
    def of_decoded(
        self, images: Sequence[Image], decoded: Sequence[Decoded | DataError]
    ) -> list[Feature | DataError]:
        """Return the features of decoded images, uncached; not thread-safe."""

    @abstractmethod
    def maps(self, image: Image) -> tuple[Tensor, ...]:
        """Return for each network the map whose mean is its features, (D, H', W'); thread-safe.

        Raises:
            DataError: the image cannot be read.
            BackboneError: features are not the mean of a map.
        """

    def readable(
        self,
        images: Sequence[Image],
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[list[int], NDArray[np.float32], list[DataError]]:
        """Return the images that can be read, their features, and the errors of the others.

        Args:
            progress: called with the number of images done, and of all images.

        Raises:
            DataError: none can be read.
        """
        rows, features, errors = [], [], []
        with closing(self.stream(images)) as stream:
            for row, found in enumerate(stream):
                if isinstance(found, DataError):
                    errors.append(found)
                else:
                    rows.append(row)
                    features.append(found)
                progress(row + 1, len(images))
        if not rows:
            raise DataError(f"none of {len(images)} images can be read: {errors[-1]}")
        return rows, np.stack(features), errors

    def matrix(
        self,
        images: Sequence[Image],
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float32]:
        """Return the features of all images, (N, D).

        Args:
            progress: called with the number of images done, and of all images.

        Raises:
            DataError: images that cannot be read or have features that are not finite, all named.
        """
        problems = Problems()
        features = []
        pairs = zip(images, self.stream(images), strict=True)
        for done, (image, feature) in enumerate(pairs, start=1):
            if isinstance(feature, DataError):
                problems.add(image, f"{feature.reason}; fix it or remove it from the data")
            else:
                features.append(feature)
            progress(done, len(images))
        problems.raise_if_any()
        return np.stack(features)
