"""What a command is given to tag: folders, files and URLs, or names on standard input."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlcrf.cli import console

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from mlcrf.images import Image, ListedImages
    from mlcrf.prediction import Shard
    from mlcrf.stores import Stored

_STDIN = "-"
_FOR_DISKS = frozenset({"xmp", "txt", "undo", "sidecar_dir", "album", "known_keywords"})
_NOT_ON_CLUSTER = frozenset({"undo", "known_keywords", "shard"})


@dataclass(frozen=True)
class Given:
    """The places that a user named, or the images themselves, from a list."""

    places: "Sequence[Path | Stored]"
    images: "Sequence[Image]"
    is_list: bool

    @classmethod
    def read(cls, words: Sequence[str], *, on_cluster: bool = False, **options: bool) -> "Given":
        """From the words of the command line, or the lines of standard input if it is `-`.

        Args:
            on_cluster: whether the pictures are to be tagged on a cluster.
            options: those that do not go with all places, by name, and whether they are given.

        Raises:
            BadParameter: one is given that does not go with the places.
            MlcrfError: a URL of a kind that we do not know; what a cluster needs is missing.
        """
        from mlcrf.images import as_image
        from mlcrf.stores import parse_place

        given = [name for name, is_given in options.items() if is_given]
        if words == [_STDIN]:
            lines = [line.rstrip("\r\n") for line in sys.stdin if line.strip()]
            source = cls([], [as_image(line) for line in lines], is_list=True)
        else:
            source = cls([parse_place(word) for word in words], [], is_list=False)
        remote = [one.name for one in source.images if one.is_remote]
        remote += [str(one) for one in source.places if not is_on_disk(one)]
        stored = remote[0] if remote else None
        for name in given:
            option = f"--{name.replace('_', '-')}"
            if stored is not None and name in _FOR_DISKS:
                raise typer.BadParameter(f"{option} is for photos on disks, and {stored} is not")
            if on_cluster and name in _NOT_ON_CLUSTER:
                raise typer.BadParameter(f"{option} does not go with --cluster; leave one out")
        if "workers" in given and not on_cluster:
            raise typer.BadParameter("--workers says how many there are on --cluster; give both")
        if on_cluster:
            if stored is not None and stored.startswith("memory:"):
                raise typer.BadParameter(f"{stored} is in this process alone, not on a cluster")
            console.require_extra("ray", "ray", "grpc")
        return source

    def pictures(
        self, limit: int | None, chosen: "Callable[[Image], bool] | None"
    ) -> "ListedImages":
        """What is meant by them, listed anew each time."""
        from mlcrf.images import ListedImages, list_images

        if self.is_list:
            return ListedImages(lambda: self.images, limit=limit, chosen=chosen)
        return ListedImages(lambda: list_images(self.places), limit=limit, chosen=chosen)

    def on_disk(self, pictures: "ListedImages") -> list[Path]:
        """Return the places on a disk: those that were named, or of a list those of its images."""
        if self.is_list:
            return [one.location for one in pictures if one.location is not None]
        return [one for one in self.places if is_on_disk(one)]

    def require_some(self, pictures: "ListedImages") -> None:
        """Refuse to do nothing.

        Raises:
            DataError: there is no picture.
        """
        from mlcrf.errors import DataError

        if not pictures.any_listed():
            named = _STDIN if self.is_list else ", ".join(map(str, self.places))
            raise DataError(f"{named}: no pictures found")


def check_outputs(
    out: str | None, *, xmp: bool, txt: bool, undo: bool, dry_run: bool, is_shaped: bool
) -> None:
    """Refuse to write nothing, or what does not go together.

    Args:
        is_shaped: whether there are options that say what the table is.

    Raises:
        BadParameter: it is so.
    """
    if undo and out is not None:
        raise typer.BadParameter("--undo tags nothing, so there is nothing for --out")
    if not (xmp or txt or undo):
        if out is None:
            raise typer.BadParameter("nothing to write: give --out FILE, --xmp or --txt")
        if dry_run:
            raise typer.BadParameter("--dry-run is for --xmp, --txt and --undo")
    if out is None and is_shaped:
        raise typer.BadParameter("--tidy, --excel-safe and --for say what --out is; give it")


def parse_part(shard: str | None, out: "Path | Stored | None", *, other: bool) -> "Shard | None":
    """Which part of the pictures is meant.

    Args:
        out: the folder of parts.
        other: whether there are options that do not go with parts.

    Raises:
        BadParameter: there are, or no folder.
    """
    from mlcrf.prediction import Shard

    if shard is None:
        return None
    if out is None or other:
        raise typer.BadParameter(
            "--shard writes a part to a folder: give --out FOLDER, and neither --undo "
            "nor --tidy, --excel-safe or --for, which are for `mlcrf merge` or for what is not "
            "sharded"
        )
    return Shard.parse(shard)


def is_on_disk(place: "Path | Stored") -> "TypeIs[Path]":
    """Whether it is no address in an object store."""
    return isinstance(place, Path)
