"""The images given to a command: folders, files and URLs, or names on standard input."""

import codecs
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlcrf.choices import RawPairs
from mlcrf.cli import console

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.images import Image, ListedImages
    from mlcrf.stores import Stored

_STDIN = "-"


def require_there(words: Sequence[str]) -> None:
    """Raise an error if a local place that a user named does not exist.

    Quick, for before a model is loaded, which takes seconds.

    Raises:
        MlcrfError: the first that does not exist, or a scheme of a URL is unknown.
    """
    from mlcrf.images.listing import require_there
    from mlcrf.stores import parse_place

    if list(words) != [_STDIN]:
        for place in map(parse_place, words):
            if isinstance(place, Path):
                require_there(place)


@dataclass(frozen=True)
class ImageSource:
    """The places that a user named, or the images listed on standard input."""

    places: "Sequence[Path | Stored]"
    images: "Sequence[Image] | None" = None

    @classmethod
    def read(cls, words: Sequence[str], *, null: bool = False) -> "ImageSource":
        """Read the arguments, or the names on standard input if the only argument is `-`.

        Args:
            null: names on standard input end with a NUL byte.

        Raises:
            MlcrfError: the scheme of a URL is unknown, or the list cannot be read.
            BadParameter: `null` without a list.
        """
        from mlcrf.images import as_image
        from mlcrf.stores import parse_place

        if list(words) == [_STDIN]:
            names = split_names(sys.stdin.buffer.read(), null=null)
            return cls([], [as_image(_unquoted(name)) for name in names])
        if null:
            raise typer.BadParameter("--null is for names on standard input; give `-` for images")
        return cls([parse_place(word) for word in words])

    @classmethod
    def read_rows(cls, words: Sequence[str], run: "Run") -> "ImageSource":
        """Read the rows of tables with the features that a run learned from.

        Raises:
            MlcrfError: no such table, or one without these features.
        """
        from dataclasses import replace

        from mlcrf.data.feature_columns import read_rows
        from mlcrf.data.table_files import TABLE_SUFFIXES
        from mlcrf.errors import MlcrfError
        from mlcrf.stores import parse_place

        rows = []
        for place in map(parse_place, words):
            if place.suffix.lower() not in TABLE_SUFFIXES:
                raise MlcrfError(
                    f"{place} is no table, and {run.path} learned from a table of numbers; give "
                    f"it a {', '.join(sorted(TABLE_SUFFIXES))} with the same columns"
                )
            found = read_rows(place, run.backbone_spec.features)
            if len(words) > 1:
                found = [
                    replace(row, name=f"{place.name}: {row.name}") if row.is_numbered else row
                    for row in found
                ]
            rows += found
        return cls([], rows)

    def require_pixels(self, **given: object) -> None:
        """Refuse given options that are for images, not for rows of numbers."""
        for name, value in given.items():
            if value:
                option = f"--{name.replace('_', '-')}"
                raise typer.BadParameter(
                    f"{option} is for images, not for a table of numbers, "
                    "which needs no network; leave it out"
                )

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
        self,
        limit: int | None,
        chosen: "Callable[[Image], bool] | None" = None,
        raw_pairs: RawPairs = RawPairs.ONE,
    ) -> "ListedImages":
        """Return the images, listed again in each iteration."""
        from mlcrf.images import LeftOut, ListedImages, list_images, list_named

        def listing(left_out: LeftOut) -> "Iterator[Image]":
            if self.images is not None:
                return list_named(self.images, left_out)
            return list_images(self.places, left_out, raw_pairs)

        return ListedImages(listing, limit=limit, chosen=chosen)

    def on_disk(self, listed: "ListedImages") -> "Sequence[Path]":
        """Return the local paths: the named places, or the images of a list."""
        if self.images is not None:
            return [one.location for one in listed if one.location is not None]
        return [one for one in self.places if isinstance(one, Path)]

    def require_some(self, listed: "ListedImages") -> None:
        """Raise a DataError if there is no image."""
        from mlcrf.errors import DataError

        if not listed.any_listed():
            is_list = self.images is not None
            named = "standard input" if is_list else ", ".join(map(str, self.places))
            raise DataError(f"{named}: {listed.left_out.explain_none()}")


def split_names(content: bytes, *, null: bool) -> "list[str]":
    """Return the names in a list: one a line, or each before a NUL byte.

    A byte-order mark and empty lines are left out; lines may end with CR LF. A list in UTF-16, as
    PowerShell writes, begins with such a mark.

    Raises:
        DataError: NUL bytes in a list of lines.
    """
    from mlcrf.errors import DataError

    text = content.removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            text = content.decode("utf-16").encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise DataError(
                "begins like UTF-16 but is not; save it as UTF-8", "standard input"
            ) from error
    if null:
        return [os.fsdecode(name) for name in text.split(b"\0") if name]
    if b"\0" in text:
        raise DataError(
            "contains NUL bytes; give --null if they separate names, as those of find -print0, "
            "else save the list as UTF-8",
            "standard input",
        )
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line.strip()]


def _unquoted(name: str) -> str:
    """Return a name without the quotes around it, unless there is a file with them."""
    if len(name) < 3 or name[0] != name[-1] or name[0] not in "\"'" or os.path.lexists(name):
        return name
    return name[1:-1]
