"""Images that stand in a file as in a folder: `shard.tar/0001.jpg`, `shard.parquet/0000001.jpg`.

The tar files of WebDataset and the Parquet files of Hugging Face, which hold photos by the thousand
so that a file system does not have to; nothing is unpacked.
"""

from collections.abc import Iterator
from pathlib import Path

from mlcrf.images.image import ContainedImage, Image, LocalImage, UrlImage
from mlcrf.images.parquet_files import SUFFIX as PARQUET
from mlcrf.images.parquet_files import Kind, kind_of
from mlcrf.images.parquet_rows import ParquetImage, row_names
from mlcrf.images.tar_files import SUFFIX as TAR
from mlcrf.images.tar_files import TarImage, tar_names
from mlcrf.stores import is_url


def is_tar(path: Path) -> bool:
    """Return whether a path is that of a tar file."""
    return path.suffix.lower() == TAR and path.is_file()


def is_parquet(path: Path) -> bool:
    """Return whether a path is that of a Parquet file, of images or of anything else."""
    return path.suffix.lower() == PARQUET and path.is_file()


def find_containers(place: Path) -> list[Path]:
    """Return the files of images that a path means: itself, or those in a folder, by name.

    Raises:
        DataError: a Parquet file that is named is damaged or holds no images.
    """
    if is_tar(place):
        return [place]
    if is_parquet(place):
        row_names(place)
        return [place]
    return find_tars(place) + find_image_tables(place)


def find_tars(place: Path) -> list[Path]:
    """Return the tar files that a path means: itself, or those of a folder, by name."""
    if place.is_dir():
        return sorted(one for one in place.iterdir() if is_tar(one))
    return [place] if is_tar(place) else []


def find_image_tables(place: Path) -> list[Path]:
    """Return the Parquet files of images that a path means: itself, or those of a folder.

    Of a folder that has none they are those of its folder `data`. Files that say where images
    are, such as tables of predictions, are left out; with images beside them, no others are, so
    that what is wrong with one is told when it is read.
    """
    if is_parquet(place):
        return [place] if kind_of(place) is Kind.IMAGES else []
    for folder in (place, place / "data"):
        if not folder.is_dir():
            continue
        kinds = {one: kind_of(one) for one in sorted(folder.iterdir()) if is_parquet(one)}
        if not {Kind.IMAGES, Kind.DAMAGED}.isdisjoint(kinds.values()):
            return [one for one, kind in kinds.items() if kind is not Kind.PATHS]
    return []


def as_image(source: str | Path | Image) -> Image:
    """Return the image that a path or URL names; a path may lead into a tar or Parquet file."""
    if isinstance(source, Image):
        return source
    if is_url(text := str(source)):
        return UrlImage(text, text)
    path = Path(source)
    container = container_of(path)
    if container is None:
        return LocalImage(str(path))
    return _kind_of_member(container)(str(path), container)


def container_of(path: Path) -> Path | None:
    """Return the tar or Parquet file that a path leads into, if it does."""
    text = path.as_posix().lower()
    if f"{TAR}/" not in text and f"{PARQUET}/" not in text:
        return None
    return next((one for one in path.parents if is_tar(one) or is_parquet(one)), None)


def members(container: Path) -> Iterator[ContainedImage]:
    """Return what is within a tar or Parquet file, in its order; of a tar all files.

    Raises:
        DataError: it is damaged, or a Parquet file without images; of a tar file also if it is
            compressed, holds a name twice, or one that leads out of it.
    """
    names = tar_names(container) if is_tar(container) else row_names(container)
    kind = _kind_of_member(container)
    return (kind(str(container / name), container) for name in names)


def _kind_of_member(container: Path) -> type[TarImage] | type[ParquetImage]:
    return TarImage if container.suffix.lower() == TAR else ParquetImage
