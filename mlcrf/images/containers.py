"""Images in tar or Parquet files: `shard.tar/0001.jpg`, `shard.parquet/0000001.jpg`.

Tar files of WebDataset and Parquet files of Hugging Face contain thousands of photos; they are read
in place.
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
    """Return whether a path is that of a Parquet file, with or without images."""
    return path.suffix.lower() == PARQUET and path.is_file()


def find_containers(place: Path) -> list[Path]:
    """Return the tar and Parquet files of images at a path: the file itself, or files in a folder.

    Raises:
        DataError: the path is a Parquet file that is damaged or has no images.
    """
    if is_tar(place):
        return [place]
    if is_parquet(place):
        row_names(place)
        return [place]
    return find_tars(place) + find_image_tables(place)


def find_tars(place: Path) -> list[Path]:
    """Return the tar files at a path: the file itself, or files in a folder, by name."""
    if place.is_dir():
        return sorted(one for one in place.iterdir() if is_tar(one))
    return [place] if is_tar(place) else []


def find_image_tables(place: Path) -> list[Path]:
    """Return the Parquet files of images at a path: the file itself, or files in a folder.

    If a folder has none, its folder `data` is searched. Tables of image paths, such as predictions,
    are left out. Other Parquet files in the same folder are included, so that reading them reports
    their errors.
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
    """Return the image at a path or URL; a path may lead into a tar or Parquet file."""
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
    """Return the tar or Parquet file that a path leads into, or None."""
    text = path.as_posix().lower()
    if f"{TAR}/" not in text and f"{PARQUET}/" not in text:
        return None
    return next((one for one in path.parents if is_tar(one) or is_parquet(one)), None)


def members(container: Path) -> Iterator[ContainedImage]:
    """Return all files in a tar, or all images in a Parquet file, in their order.

    Raises:
        DataError: a damaged file, a Parquet file without images, or a tar file that is compressed,
            or has a duplicate or unsafe name.
    """
    names = tar_names(container) if is_tar(container) else row_names(container)
    kind = _kind_of_member(container)
    return (kind(str(container / name), container) for name in names)


def _kind_of_member(container: Path) -> type[TarImage] | type[ParquetImage]:
    return TarImage if container.suffix.lower() == TAR else ParquetImage
