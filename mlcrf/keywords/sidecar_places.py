"""The places of the files that belong to a photo: its sidecar and its tag file."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from mlcrf.choices import SidecarName
from mlcrf.errors import DataError
from mlcrf.images import Image
from mlcrf.images.containers import members
from mlcrf.images.file_kinds import is_picture_name
from mlcrf.images.listing import is_file
from mlcrf.keywords.photo_keywords import load_sidecar
from mlcrf.keywords.xmp import Packet, Property

_FOR_EXTENSION = Property("photoshop", "SidecarForExtension")


class PhotoPlaces:
    """Paths of files next to photos, or in a parallel tree.

    A new sidecar is named `photo.jpg.xmp`, which is unique. An existing `photo.xmp` is used instead
    if it says that it belongs to a `.jpg`; or if it does not say so, and no other image, RAW file
    or video in the folder has the same name but another suffix. Photos in a tar or Parquet file
    need a parallel tree, `DIR/shard.tar/photo.jpg.xmp`.

    Args:
        directory: top of the parallel tree; None for files next to the photos.
        places: the folders and photos given by the user. The parallel tree starts at their deepest
            common folder.
        new_name: the name of a new sidecar; `photo.xmp` only where it can belong to no other file.

    Raises:
        DataError: the parallel tree is, or is below, a file.
    """

    def __init__(
        self,
        directory: Path | None = None,
        places: Iterable[Path] = (),
        *,
        new_name: SidecarName = SidecarName.FULL,
    ) -> None:
        self._directory, self._new_name = directory, new_name
        self._root = Path()
        if directory is not None:
            _require_folder(directory)
            folders = {(one if one.is_dir() else one.parent).resolve() for one in places}
            self._root = Path(os.path.commonpath(folders)) if folders else Path()
        self._listed: tuple[Path, dict[str, list[str]]] = (Path(), {})

    def sidecar(self, photo: Image) -> Path:
        """Return the path of the existing or a new sidecar.

        Raises:
            DataError: see `require_room`.
        """
        self.require_room(photo)
        found = self.existing_sidecar(photo)
        if found:
            return found
        base = self._base(photo)
        by_stem = base.with_name(f"{base.stem}.xmp")
        shared = self.rivals(photo) or os.path.lexists(by_stem)
        if self._new_name is SidecarName.STEM and not shared:
            return by_stem
        return base.with_name(f"{base.name}.xmp")

    def existing_sidecar(self, photo: Image) -> Path | None:
        """Return the existing sidecar of a photo, or None."""
        for place in self.all_sidecars(photo):
            if place.stem == photo.file_name:
                return place
            suffix = _suffix_of(place)
            if suffix == _plain(photo.file_name) or (not suffix and not self.rivals(photo)):
                return place
        return None

    def all_sidecars(self, photo: Image) -> list[Path]:
        """Return existing sidecars of either name, the unique name first."""
        base = self._base(photo)
        names = [f"{base.name}.xmp", f"{base.name}.XMP", f"{base.stem}.xmp", f"{base.stem}.XMP"]
        there = (base.with_name(name) for name in names)
        return [one for one in there if os.path.isfile(one)]  # noqa: PTH113 - too long a name is none

    def tag_file(self, photo: Image) -> Path:
        """Return the path of the tag file: `photo.txt`, as training reads it.

        Raises:
            DataError: see `require_room`.
        """
        self.require_room(photo)
        return self._base(photo).with_suffix(".txt")

    def require_room(self, photo: Image) -> None:
        """Refuse to place files beside a photo inside a tar or Parquet file without --sidecar-dir.

        Raises:
            DataError: the photo is inside such a file, and there is no parallel tree.
        """
        if self._directory is None and photo.container is not None:
            raise DataError(
                f"is inside {photo.container.name}, so no file can be put next to it; "
                "use --sidecar-dir DIR",
                photo,
            )

    def mirrored(self, folder: Path) -> Path:
        """Return the folder in which files of a folder's photos are placed."""
        if self._directory is None:
            return folder
        return self._directory / folder.resolve().relative_to(self._root)

    def rivals(self, photo: Image) -> Sequence[str]:
        """Return other images, RAW files and videos in the folder that `photo.xmp` could be of."""
        path = _location(photo)
        folder = path.parent
        listed, by_stem = self._listed
        if listed != folder:
            by_stem = {}
            for name in map(Path, _file_names(photo)):
                if not is_picture_name(name.name):
                    continue  # no program keeps keywords of such a file in a sidecar
                for stem in {name.stem, name.name}:  # a.jpg.xmp belongs to a.jpg, not to a.jpg.png
                    by_stem.setdefault(stem, []).append(name.name)
            self._listed = (folder, by_stem)
        return [name for name in by_stem.get(path.stem, ()) if name != path.name]

    def _base(self, photo: Image) -> Path:
        """Return the photo's path, or the corresponding path in the parallel tree."""
        path = _location(photo)
        return self.mirrored(path.parent) / path.name


def _require_folder(directory: Path) -> None:
    there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
    if not there.is_dir():
        raise DataError("is a file; --sidecar-dir takes a folder, there or new", there)


def _suffix_of(sidecar: Path) -> str:
    """Return the suffix of the file that a sidecar belongs to, as Adobe's programs note it.

    Empty if it is not noted, or the sidecar cannot be read, which is an error once it is used.
    """
    try:
        names = Packet(load_sidecar(sidecar)).values(_FOR_EXTENSION)
    except (DataError, ValueError):
        return ""
    return _plain(names[0]) if names else ""


def _plain(name: str) -> str:
    suffix = name.rpartition(".")[2].lower()
    return {"jpeg": "jpg", "tiff": "tif"}.get(suffix, suffix)


def _location(photo: Image) -> Path:
    assert photo.location is not None  # photos in a store are refused before
    return photo.location


def _file_names(photo: Image) -> Iterator[str]:
    """Yield the file names in a photo's folder, which may be in a tar or Parquet file."""
    folder = _location(photo).parent
    if photo.container is not None:
        inside = members(photo.container)
        yield from (one.file_name for one in inside if one.location.parent == folder)
        return
    with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
        yield from (entry.name for entry in entries if is_file(entry))
