"""The images given to a command: folders, files and URLs, or names on standard input."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlcrf.cli import console

if TYPE_CHECKING:
    from mlcrf.images import Image, ListedImages
    from mlcrf.stores import Stored

_STDIN = "-"


@dataclass(frozen=True)
class ImageSource:
    """The places that a user named, or the images listed on standard input."""

    places: "Sequence[Path | Stored]"
    images: "Sequence[Image] | None" = None

    @classmethod
    def read(cls, words: Sequence[str]) -> "ImageSource":
        """Read the arguments, or the lines of standard input if the only argument is `-`.

        Raises:
            MlcrfError: the scheme of a URL is unknown.
        """
        from mlcrf.images import as_image
        from mlcrf.stores import parse_place

        if list(words) == [_STDIN]:
            lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
            return cls([], [as_image(line) for line in lines])
        return cls([parse_place(word) for word in words])

    @property
    def _remote(self) -> "str | None":
        """The first URL, or None."""
        remote = [one.name for one in self.images or () if one.is_remote]
        remote += [str(one) for one in self.places if not isinstance(one, Path)]
        return next(iter(remote), None)

    def require_disk(self, **given: object) -> None:
        """Refuse given options that need images on disks.

        Raises:
            BadParameter: an image is in an object store.
        """
        for name, value in given.items():
            if value and self._remote is not None:
                option = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(
                    f"{option} is for images on disks, and {self._remote} is not"
                )

    def require_cluster(self, **given: object) -> None:
        """Refuse options and images that cannot be used with a cluster.

        Raises:
            BadParameter: an option that is given, or an image in this process's memory.
            MlcrfError: Ray is not installed.
        """
        for name, value in given.items():
            if value:
                option = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(f"{option} cannot be used with --cluster; leave one out")
        if self._remote is not None and self._remote.startswith("memory:"):
            raise typer.BadParameter(f"{self._remote} is in this process only, not on a cluster")
        console.require_extra("ray", "ray", "grpc")

    def list(
        self, limit: int | None, chosen: "Callable[[Image], bool] | None" = None
    ) -> "ListedImages":
        """Return the images, listed again in each iteration."""
        from mlcrf.images import ListedImages, list_images

        images = self.images
        if images is not None:
            return ListedImages(lambda: images, limit=limit, chosen=chosen)
        return ListedImages(lambda: list_images(self.places), limit=limit, chosen=chosen)

    def on_disk(self, listed: "ListedImages") -> "Sequence[Path]":
        """Return the local paths: the named places, or the images of a list."""
        if self.images is not None:
            return [one.location for one in listed if one.location is not None]
        return [one for one in self.places if isinstance(one, Path)]

    def require_some(self, listed: "ListedImages") -> None:
        """Raise a DataError if there is no image."""
        from mlcrf.errors import DataError

        if not listed.any_listed():
            named = ", ".join(map(str, self.places)) if self.images is None else _STDIN
            raise DataError(f"{named}: no images found")
