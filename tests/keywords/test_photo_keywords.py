"""Keywords of photos, wherever a person's programs have put them."""

from pathlib import Path

import pytest

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.retagging import Author, Tag, retag
from tests.keywords.pictures import iptc_of, make_photo, xmp_of

AUTHOR = Author("model", "c0ffee")


def test_sidecar_embedded_and_iptc(tmp_path: Path) -> None:
    """All three, each keyword once, in that order."""
    iptc = iptc_of(b"sky", b"Gro\xc3\x9fe Stadt")
    photo = make_photo(tmp_path / "a.jpg", xmp=xmp_of("sea", "sky"), iptc=iptc)
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_bytes(xmp_of("dog"))
    assert read_keywords(as_image(photo)) == ("sea", "sky", "Große Stadt")
    assert read_keywords(as_image(photo), sidecar) == ("dog", "sea", "sky", "Große Stadt")
    assert read_keywords(as_image(make_photo(tmp_path / "plain.jpg"))) == ()
    assert read_keywords(as_image(make_photo(tmp_path / "b.webp", xmp=xmp_of("sea")))) == ("sea",)


@pytest.mark.parametrize(
    ("raw", "utf8", "text"),
    [
        (b"s\xc3\xbc\xc3\x9f", False, "süß"),
        (b"s\xfc\xdf", False, "süß"),
        (b"s\xfc", True, "s\ufffd"),
        (b" sea \0", False, "sea"),
    ],
)
def test_iptc_encodings(tmp_path: Path, raw: bytes, utf8: bool, text: str) -> None:
    """UTF-8 where it is, Latin-1 else; a single keyword is a list of one."""
    photo = make_photo(tmp_path / "a.jpg", iptc=iptc_of(raw, utf8=utf8))
    assert read_keywords(as_image(photo)) == (text,)


def test_what_we_wrote_does_not_count(tmp_path: Path) -> None:
    """Marked tags are no person's, also where a program copied them into the picture."""
    tags = [Tag("sky", (("sky",),)), Tag("tree", (("tree",),))]
    ours = retag(xmp_of("sea"), tags, AUTHOR).content or b""
    sidecar = tmp_path / "a.xmp"
    sidecar.write_bytes(ours)
    photo = make_photo(tmp_path / "a.jpg")
    assert read_keywords(as_image(photo), sidecar) == ("sea",)
    photo = make_photo(tmp_path / "b.jpg", xmp=ours, iptc=iptc_of(b"sky", b"sea", b"dog"))
    assert read_keywords(as_image(photo)) == ("sea", "dog")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    """One line that names the file, also where its name has several lines."""
    photo = make_photo(tmp_path / "a\nb.jpg", xmp=b"<rdf:RDF no xml")
    with pytest.raises(DataError, match=r"a\\nb\.jpg': its XMP cannot be read: it is not XML"):
        read_keywords(as_image(photo))
    good = make_photo(tmp_path / "a.jpg")
    sidecar = tmp_path / "a.jpg.xmp"
    with pytest.raises(DataError, match=r"a\.jpg\.xmp: cannot be read: No such file"):
        read_keywords(as_image(good), sidecar)
    sidecar.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.jpg\.xmp: cannot be read as a sidecar: it is not XML"):
        read_keywords(as_image(good), sidecar)
    broken = make_photo(
        tmp_path / "c.jpg", iptc=b"\x1c\x02\x19\x00\x03sky" + b"\x07\x01\x02\x03\x04"
    )
    with pytest.raises(DataError, match=r"c\.jpg: its metadata cannot be read"):
        read_keywords(as_image(broken))
    with pytest.raises(DataError, match=r"d\.jpg: its metadata cannot be read: No such file"):
        read_keywords(as_image(tmp_path / "d.jpg"))
