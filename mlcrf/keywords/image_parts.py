"""An image file in parts: XMP, IPTC, and what must stay as it is when these change."""

import hashlib
import json
import re
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageSequence

from mlcrf.errors import reason_of
from mlcrf.images import as_image
from mlcrf.images.file_kinds import RAW_SUFFIXES, suffix_of
from mlcrf.images.limits import refuse_large
from mlcrf.images.opening import open_image
from mlcrf.keywords import iptc
from mlcrf.keywords.exiftool import ExifTool, ExifToolError
from mlcrf.keywords.iptc import Iptc
from mlcrf.keywords.jpeg_segments import JpegSegments
from mlcrf.keywords.xmp import without_padding

HEAD_BYTES = 16
_IS_RAW = "--embed leaves RAW files of cameras alone"
_JPEG, _DNG = ".jpg", ".dng"
_KINDS = {
    _JPEG: rb"\xff\xd8\xff",
    ".png": rb"\x89PNG\r\n",
    ".webp": rb"RIFF....WEBP",
    ".heic": rb"....ftyp(heic|heix|heim|heis|mif1)",
    ".avif": rb"....ftypavif",
    ".jxl": rb"\0\0\0\x0cJXL ",
}
_TIFF = (b"II*\0", b"MM\0*")
_TIFF_SUFFIXES = {".tif": "TIFF", ".tiff": "TIFF", _DNG: "DNG"}
_READ = ("-json", "-quiet", "-quiet", "-binary", "-duplicates", "-unknown2", "-G3:1:4")
_ALL = ("-all", "-XMP", *iptc.WANTED, "--System:all", "--Composite:all")
_BINARY = "base64:"
# What exiftool may change: XMP of the image; places in the file; the flag of WebP that says that
# there is XMP; and data of HEIC, which are compared as pixels, since XMP is among them.
_MAY_CHANGE = re.compile(
    r"XMP[^:]*:.*|.*:(?!TimeZone)\w*(Offsets?|Start)|.*:MediaData(Size)?|RIFF:WebP_Flags"
    r"|File:FileType(Extension)?|ExifTool:.*|SourceFile"
)


def kind_of(name: str, head: bytes) -> str:
    """Return the kind of an image file that exiftool writes to, as a suffix.

    Args:
        head: the first `HEAD_BYTES` bytes.

    Raises:
        ValueError: exiftool does not write to it, or it is the RAW file of a camera. Those are the
            only originals, and nobody knows all that is in them; DNG is documented.
    """
    suffix = suffix_of(name)
    if suffix in RAW_SUFFIXES and suffix != _DNG:
        raise ValueError(_IS_RAW)
    for kind, start in _KINDS.items():
        if re.match(start, head, re.DOTALL):
            return kind
    if head.startswith(_TIFF) and suffix in _TIFF_SUFFIXES:
        return suffix
    raise ValueError("--embed does not write to files of this kind")


@dataclass(frozen=True)
class ImageParts:
    """The metadata of an image file, apart from its pixels.

    Attributes:
        xmp: its XMP packet; None if it has none.
        iptc: None if it has none.
        others: equal for files with the same metadata but XMP and keywords in IPTC: of a JPEG, all
            bytes; else all tags that exiftool knows, thumbnails and previews among them.
    """

    xmp: bytes | None
    iptc: Iptc | None
    others: object

    @classmethod
    def read(cls, content: bytes, kind: str, tool: ExifTool) -> "ImageParts":
        """Read an image file of a kind, given its content.

        Raises:
            ValueError: it is damaged, or has XMP in several places.
            ExifToolError: exiftool failed.
        """
        if kind == _JPEG:
            segments = JpegSegments.split(content)
            if not segments.has_iptc:
                return cls(segments.xmp, None, (segments.others, frozenset()))
            with working_copy(content, kind) as image:
                tags = _tags(image, tool, *iptc.WANTED)
            return cls(segments.xmp, Iptc.of(tags), (segments.others, _others(tags)))
        with working_copy(content, kind) as image:
            tags = _tags(image, tool, *_ALL)
        if kind in _TIFF_SUFFIXES and tags.get("File:FileType") != _TIFF_SUFFIXES[kind]:
            raise ValueError(_IS_RAW)
        return cls(_xmp(tags), Iptc.of(tags), _others(tags))


def pixels_of(content: bytes, kind: str) -> object:
    """Return a value that is equal for files with the same pixels.

    Of a JPEG, it is what the pixels are decoded from; of a DNG, a hash of the sensor data; else, of
    all decoded frames.

    Raises:
        ValueError: the pixels cannot be decoded.
    """
    if kind == _JPEG:
        return JpegSegments.split(content).pixels
    digest = hashlib.sha256()
    try:
        with working_copy(content, kind) as image:
            for pixels in _sensor_data(image) if kind == _DNG else _frames(image):
                digest.update(f"{pixels.shape} {pixels.dtype}".encode())
                digest.update(np.ascontiguousarray(pixels).data)
    except Exception as error:  # Pillow and LibRaw may raise any exception
        reason = reason_of(error)
        raise ValueError(
            f"its pixels cannot be read ({reason}), so a change would not be noticed"
        ) from error
    return digest.hexdigest()


@contextmanager
def working_copy(content: bytes, kind: str) -> Iterator[Path]:
    """Yield a file with this content, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="mlcrf-") as folder:
        path = Path(folder, f"image{kind}")
        path.write_bytes(content)
        yield path


def _tags(image: Path, tool: ExifTool, *wanted: str) -> dict[str, object]:
    """Return tags by group and name, `IFD0:Artist`.

    A second one is `IFD0:Copy1:Artist`, that of another image in the file `Doc1:IFD0:Artist`.

    Raises:
        ValueError: the image is damaged.
    """
    printed = tool.run(*_READ, *wanted, str(image))
    try:
        (found,) = json.loads(printed, parse_int=str, parse_float=str)
    except ValueError as error:
        raise ExifToolError(f"exiftool: {' '.join(printed.split())}") from error
    tags = {name.removeprefix("Main:"): value for name, value in found.items()}
    if fault := tags.get("ExifTool:Error"):
        raise ValueError(f"exiftool: {fault}")
    return tags


def _xmp(tags: Mapping[str, object]) -> bytes | None:
    packets = [tags[name] for name in tags if re.fullmatch(r"XMP:(Copy\d+:)?XMP", name)]
    if len(packets) > 1:
        raise ValueError("it has XMP in several places")
    for text in map(str, packets):
        is_binary = text.startswith(_BINARY)  # such as UTF-16
        packet = b64decode(text.removeprefix(_BINARY)) if is_binary else text.encode()
        return without_padding(packet)
    return None


def _others(tags: Mapping[str, object]) -> frozenset[tuple[str, str]]:
    """Return what must not change, without the numbers of tags that are there several times."""
    names = (re.sub(r":Copy\d+", "", name) for name in tags)
    return frozenset(
        (name, json.dumps(value))
        for name, value in zip(names, tags.values(), strict=True)
        if not _MAY_CHANGE.fullmatch(name) and name not in iptc.CHANGING
    )


def _frames(image: Path) -> Iterator[NDArray[np.generic]]:
    with open_image(as_image(image), for_pixels=True) as opened:
        for frame in ImageSequence.Iterator(opened):
            refuse_large(frame.width * frame.height)
            yield np.asarray(frame)


def _sensor_data(image: Path) -> Iterator[NDArray[np.generic]]:
    try:
        import rawpy
    except ImportError as error:
        raise OSError("to read it: pip install 'mlcrf[raw]'") from error
    with rawpy.imread(str(image)) as raw:
        yield raw.raw_image
