"""Read RAW files of cameras through the preview in them; needs the extra `raw`."""

import ctypes
import io
import mmap
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from threading import Lock
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageFile
from PIL import Image as PilImage
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mlcrf.images.file_kinds import RAW_SUFFIXES, suffix_of
from mlcrf.images.image import Image
from mlcrf.images.limits import refuse_bomb, refuse_large

if TYPE_CHECKING:
    import rawpy

_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # of EXIF, by the flip of LibRaw
_QUARTER_TURNS = frozenset({5, 6, 7, 8})
# Tags of TIFF: starts and lengths of strips, of tiles, and the places of further directories.
_DATA = ((273, 279), (324, 325))
_SUB_DIRECTORIES = 330
_MOST_DIRECTORIES = 20
_END_OF_PREVIEW_BYTES = 64


@dataclass(frozen=True)
class Preview:
    """An image file that shows what a RAW file does, a JPEG or PPM.

    Attributes:
        content: the file.
        width, height: in pixels, as stored.
        orientation: as in EXIF; what EXIF in the content says does not count.
    """

    content: bytes
    width: int
    height: int
    orientation: int = 1

    @property
    def short_px(self) -> int:
        return min(self.width, self.height)


def is_raw(image: Image) -> bool:
    """Return whether an image is a RAW file: by its suffix, unless the content is a JPEG."""
    if suffix_of(image.file_name) not in RAW_SUFFIXES:
        return False
    with image.open() as stream:
        return stream.read(3) != b"\xff\xd8\xff"


def is_preview_of_raw(opened: ImageFile.ImageFile) -> bool:
    """Return whether Pillow has opened the preview in a TIFF, which may be tiny."""
    tags = getattr(opened, "tag_v2", {})
    return bool(int(tags.get(ExifTags.Base.NewSubfileType, 0)) & 1)


def load_preview(image: Image, least_px: int) -> Preview:
    """Return the largest preview in a RAW file, or else its sensor data, decoded at half size.

    Sensor data are decoded only if the preview has fewer than `least_px` pixels on its shorter side
    and fewer than half size has; never if `least_px` is 0.

    Raises:
        OSError: the extra `raw` is not installed, the file is damaged or of an unknown camera, or
            its sensor data could take too much memory.

    Cost: a preview takes the time of a JPEG; sensor data take four times as long.
    """
    try:
        import rawpy
    except ImportError as error:
        raise OSError(
            "a RAW file; to read it: pip install 'mlcrf[raw]', or export it as JPEG"
        ) from error
    try:
        with _silent(), rawpy.imread(_readable(image)) as raw:
            preview = _preview(raw, image)
            half_px = min(raw.sizes.width, raw.sizes.height) // 2
            if preview is not None and preview.short_px >= min(least_px, half_px):
                return preview
            if least_px == 0:
                raise OSError("a RAW file without a preview")
            if _is_cut_short(image):
                raise OSError("truncated")
            pixels = raw.sizes.raw_width * raw.sizes.raw_height
            refuse_bomb(pixels, _file_bytes(image))
            refuse_large(pixels)
            developed = raw.postprocess(half_size=True, use_camera_wb=True)
            if not developed.any():  # LibRaw takes what is missing as dark
                raise OSError("a RAW file whose sensor data are missing or dark")
            return _from_array(developed)
    except rawpy.LibRawError as error:
        reason = error.args[0]
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise OSError(f"a RAW file that LibRaw does not read: {text}") from error


class _Silence:
    """The number of threads in `_silent`."""

    lock = Lock()
    threads = 0


@contextmanager
def _silent() -> Iterator[None]:
    """Keep LibRaw from writing about damaged files to standard error, which it does in C.

    What Python prints meanwhile is not affected. Does nothing where the C library is not glibc.
    """
    streams = _streams()
    if streams is None:
        yield
        return
    stderr, usual, nowhere = streams
    with _Silence.lock:
        _Silence.threads += 1
        stderr.value = nowhere
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.threads -= 1
            if not _Silence.threads:
                stderr.value = usual


@cache
def _streams() -> tuple[ctypes.c_void_p, int | None, int | None] | None:
    """Return the variable `stderr` of the C library, its value, and a stream that is not shown."""
    if platform.libc_ver()[0] != "glibc":
        return None
    library = ctypes.CDLL(None)
    library.fopen.restype = ctypes.c_void_p
    nowhere: int | None = library.fopen(os.devnull.encode(), b"w")
    stderr = ctypes.c_void_p.in_dll(library, "stderr")
    return None if nowhere is None else (stderr, stderr.value, nowhere)


def _is_cut_short(image: Image) -> bool:
    """Return whether a RAW file in the form of TIFF ends before its data do.

    LibRaw may take whatever is in memory for the missing data.
    """
    with image.open() as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        head = stream.read(8)
        try:
            return any(end > size for end in _ends(stream, head))
        except (SyntaxError, OSError, ValueError, TypeError, struct.error):
            return False  # no TIFF, or tags that LibRaw may understand


def _ends(stream: IO[bytes], head: bytes) -> Iterator[int]:
    """Yield where each strip and tile of a TIFF ends; of the first directories only."""
    places = [ImageFileDirectory_v2(head).next]
    for place in islice(places, _MOST_DIRECTORIES):
        directory = ImageFileDirectory_v2(head)
        stream.seek(place)
        directory.load(stream)
        for starts, lengths in _DATA:
            parts = (
                np.atleast_1d(directory.get(starts, ())),
                np.atleast_1d(directory.get(lengths, ())),
            )
            yield from (int(start) + int(length) for start, length in zip(*parts, strict=False))
        places += [int(one) for one in np.atleast_1d(directory.get(_SUB_DIRECTORIES, ()))]
        places += [directory.next] if directory.next else []


def _readable(image: Image) -> str | io.BytesIO:
    """Return the path of a RAW file, or its content where LibRaw cannot open the path."""
    if image.path is not None:
        try:
            str(image.path).encode()
            return str(image.path)
        except UnicodeEncodeError:  # bytes that are not UTF-8
            pass
    return io.BytesIO(image.read())


def _file_bytes(image: Image) -> int:
    return len(image.read()) if image.path is None else image.path.stat().st_size


def _holds(image: Image, content: bytes) -> bool:
    """Return whether a file has `content` in it."""
    if image.path is None:
        return content in image.read()
    with (
        image.open() as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        return mapped.find(content) >= 0


def _preview(raw: "rawpy.RawPy", image: Image) -> Preview | None:
    """Return the preview in an open RAW file, None if it has none.

    LibRaw lets a preview begin in the file and go on after its end, in whatever is in memory, such
    as the preview of another photo.
    """
    import rawpy

    try:
        found = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        return None
    sizes, orientation = raw.sizes, _ORIENTATIONS.get(raw.sizes.flip, 1)
    if not isinstance(found.data, bytes):
        if _is_cut_short(image):
            raise OSError("truncated")
        preview = _from_array(found.data)
    else:
        if not _holds(image, found.data[-_END_OF_PREVIEW_BYTES:]):
            raise OSError("truncated")
        with PilImage.open(io.BytesIO(found.data), formats=["JPEG"]) as opened:
            # LibRaw adds the orientation of the file to previews without EXIF.
            orientation = opened.getexif().get(ExifTags.Base.Orientation, orientation)
            preview = Preview(found.data, *opened.size)
    is_turned = (preview.width < preview.height) != (sizes.width < sizes.height)
    if is_turned and orientation in _QUARTER_TURNS:  # some cameras store previews upright
        orientation = 1
    return replace(preview, orientation=orientation)


def _from_array(pixels: NDArray[np.uint8]) -> Preview:
    height, width, _ = pixels.shape
    return Preview(f"P6 {width} {height} 255\n".encode() + pixels.tobytes(), width, height)
