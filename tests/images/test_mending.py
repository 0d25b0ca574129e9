"""Images that viewers show are read although Pillow refuses them; what lacks pixels is not."""

import io
import warnings
import zlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mlcrf.errors import DataError, MlcrfWarning
from mlcrf.images import as_image
from mlcrf.images.albums import capture_time
from mlcrf.images.pixels import load_pixels
from mlcrf.keywords.photo_keywords import read_keywords
from tests.images.test_pixels import bomb, chunk, encoded, photo


def jpeg(*, progressive: bool) -> bytes:
    image = photo().resize((320, 240), Image.Resampling.BICUBIC)
    return encoded(image, "JPEG", quality=90, progressive=progressive)


def assert_read_with_a_note(path: Path, whole: bytes, content: bytes) -> None:
    path.write_bytes(whole)
    expected = load_pixels(as_image(path), 32)
    path.write_bytes(content)
    with pytest.warns(MlcrfWarning) as caught:
        pixels = load_pixels(as_image(path), 32)
    assert [str(one.message) for one in caught] == [
        f"{path}: the end of this JPEG is missing, but none of its pixels"
    ]
    assert (pixels == expected).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_without_their_end(tmp_path: Path, *, progressive: bool) -> None:
    """Without the marker or half of it."""
    whole = jpeg(progressive=progressive)
    assert whole.endswith(b"\xff\xd9")
    for content in (whole[:-2], whole[:-1]):
        assert_read_with_a_note(tmp_path / "a.jpg", whole, content)


@pytest.mark.parametrize("missing", [1, 2])
def test_zeros_instead_of_the_end_of_a_jpeg(tmp_path: Path, missing: int) -> None:
    """Pillow itself reads that of JPEGs that are not progressive."""
    whole = jpeg(progressive=False)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    expected = load_pixels(as_image(path), 32)
    path.write_bytes(whole[:-missing] + bytes(5_000))
    assert (load_pixels(as_image(path), 32) == expected).all()
    whole = jpeg(progressive=True)
    assert_read_with_a_note(path, whole, whole[:-missing] + bytes(5_000))


def test_a_jpeg_whose_pixels_end_in_255(tmp_path: Path) -> None:
    """The zero that escapes it is not taken for one that fills the file."""
    noise = (np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8) for seed in range(99))
    wholes = (encoded(Image.fromarray(one), "JPEG", quality=100) for one in noise)
    whole = next(one for one in wholes if one.endswith(b"\xff\0\xff\xd9"))
    assert_read_with_a_note(tmp_path / "a.jpg", whole, whole[:-2])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("filled", [False, True])
def test_jpegs_without_pixels(
    tmp_path: Path, *, progressive: bool, share: float, filled: bool
) -> None:
    """An unfinished download stays an error, also where zeros fill the rest of the file."""
    whole = jpeg(progressive=progressive)
    cut = whole[: int(len(whole) * share)]
    (tmp_path / "a.jpg").write_bytes(cut + bytes(len(whole) - len(cut)) * filled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="cut short; copy it again"):
            load_pixels(as_image(tmp_path / "a.jpg"), 32)


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>sea</rdf:li></rdf:Bag>
</dc:subject></rdf:Description></rdf:RDF></x:xmpmeta>"""
WORKFLOW = b"{'nodes': [" + b"0, " * 1_000_000 + b"]}"
TEXTS = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(WORKFLOW)),
    "iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(WORKFLOW)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(WORKFLOW)),
    "many tEXt": b"".join(chunk(b"tEXt", b"workflow\0" + WORKFLOW) for _ in range(25)),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("place_of_xmp", ["before", "after"])
def test_a_png_with_large_texts(tmp_path: Path, kind: str, place: str, place_of_xmp: str) -> None:
    """Workflows of image generators hide neither pixels nor keywords."""
    data = encoded(photo(), "PNG")
    packet = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    start = data.index(b"IDAT") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    before = packet * (place_of_xmp == "before") + TEXTS[kind] * (place == "before")
    after = TEXTS[kind] * (place == "after") + packet * (place_of_xmp == "after")
    content = data[:start] + before + data[start:end] + after + data[end:]
    (tmp_path / "a.png").write_bytes(content)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, reducing_gap=3.0))
    assert (load_pixels(as_image(tmp_path / "a.png"), 32) == expected).all()
    assert read_keywords(as_image(tmp_path / "a.png")) == ("sea",)


def test_a_damaged_png_stays_an_error(tmp_path: Path) -> None:
    """Leaving texts out does not hide damage."""
    data = encoded(photo(), "PNG")
    body = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:body] + TEXTS["zTXt"] + data[body : body + 300])
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_pixels(as_image(tmp_path / "a.png"), 32)


def test_metadata_of_a_png_without_its_pixels(tmp_path: Path) -> None:
    """EXIF after the pixels is found, and a bomb is not decoded for it."""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    data = bomb("PNG")
    end = data.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:end] + chunk(b"eXIf", exif.tobytes()[6:]) + data[end:])
    assert capture_time(as_image(path)) == datetime(2024, 5, 6, 7, 8, 9)
    assert read_keywords(as_image(path)) == ()
    path.write_bytes(data)
    assert capture_time(as_image(path)) is None
