"""A new sidecar begins with what is embedded in its image."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from mlcrf.errors import DataError
from mlcrf.images import as_image
from mlcrf.keywords.embedded import embedded_packet
from mlcrf.keywords.retagging import Author, Tag, own_keywords, retag
from mlcrf.keywords.xmp import Packet, Property
from tests.images.raw_photos import dng
from tests.keywords.pictures import make_photo, segment_of, xmp_of

TITLE, DESCRIPTION = Property("dc", "title"), Property("dc", "description")
CREATOR, RIGHTS = Property("dc", "creator"), Property("dc", "rights")
RATING, SUBJECT = Property("xmp", "Rating"), Property("dc", "subject")
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:note="http://ns.adobe.com/xmp/note/" xmlns:other="urn:other" xmp:Rating="4" {}>
 <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Dawn</rdf:li></rdf:Alt></dc:title>
 <dc:subject><rdf:Bag><rdf:li>Sea</rdf:li></rdf:Bag></dc:subject>
 <other:box rdf:parseType="Resource"><other:x>1</other:x></other:box>{}
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


def data_set(number: int, text: str) -> bytes:
    raw = text.encode()
    return bytes([0x1C, 2, number]) + len(raw).to_bytes(2, "big") + raw


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff", "a.avif", "a.heic"])
def test_the_packet_of_every_format(tmp_path: Path, name: str) -> None:
    """Whole, with properties that we do not know."""
    photo, raw = tmp_path / name, XMP.format("", "").encode()
    image = Image.new("RGB", (64, 64))
    if name == "a.png":
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt("XML:com.adobe.xmp", raw.decode())
        image.save(photo, pnginfo=chunk)
    elif name == "a.tiff":
        image.save(photo, tiffinfo={700: raw})
    else:
        if name == "a.heic":
            pytest.importorskip("pillow_heif").register_heif_opener()
        image.save(photo, xmp=raw)
    packet = embedded_packet(as_image(photo))
    assert (packet.values(TITLE), packet.values(RATING)) == (["Dawn"], ["4"])
    assert packet.values(SUBJECT) == ["Sea"] and b"<other:x>1</other:x>" in packet.to_bytes()


def test_how_a_finished_image_was_developed_is_not_said_again(tmp_path: Path) -> None:
    """A program would develop it so a second time."""
    names = (
        'xmlns:dt="http://darktable.sf.net/" dt:xmp_version="5" dt:history_end="1" '
        'xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:HasCrop="True"'
    )
    more = "<dt:colorlabels><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></dt:colorlabels>"
    more += "<dt:history><rdf:Seq><rdf:li dt:operation='flip'/></rdf:Seq></dt:history>"
    raw = XMP.format(names, more).encode()
    image, photo = Image.new("RGB", (64, 64)), tmp_path / "a.jpg"
    image.save(photo, xmp=raw)
    packet = embedded_packet(as_image(photo))
    content = packet.to_bytes()
    assert packet.values(TITLE) == ["Dawn"] and b"<dt:colorlabels>" in content
    assert not any(one in content for one in (b"history", b"xmp_version", b"HasCrop"))


def test_iptc_and_exif_say_the_rest(tmp_path: Path) -> None:
    """Keywords are united; other properties come from XMP, else IPTC, else EXIF."""
    iptc = data_set(5, "no title") + data_set(25, "sea") + data_set(25, "Möwe")
    iptc += data_set(80, "Ann") + data_set(80, "Bob") + data_set(120, "A caption\x01")
    exif = Image.Exif()
    exif[0x010E], exif[0x8298], exif[0x4746] = "no caption", "(c) Ann", 2
    exif[0x9C9E] = "Sea;Boat;".encode("utf-16-le") + b"\0\0"
    photo = make_photo(tmp_path / "a.jpg", xmp=XMP.format("", "").encode(), iptc=iptc, exif=exif)
    packet = embedded_packet(as_image(photo))
    assert packet.values(TITLE) == ["Dawn"] and packet.values(DESCRIPTION) == ["A caption"]
    assert packet.values(CREATOR) == ["Ann", "Bob"] and packet.values(RIGHTS) == ["(c) Ann"]
    assert packet.values(RATING) == ["4"] and packet.values(SUBJECT) == ["Sea", "Möwe", "Boat"]
    bare = make_photo(tmp_path / "b.jpg", iptc=iptc, exif=exif)
    packet = embedded_packet(as_image(bare))
    assert (packet.values(TITLE), packet.values(RATING)) == (["no title"], ["2"])
    assert embedded_packet(as_image(make_photo(tmp_path / "c.jpg"))).is_empty


@pytest.mark.parametrize("preview_first", [True, False])
def test_a_raw_file(tmp_path: Path, preview_first: bool) -> None:
    """Its own packet, also where Pillow can open only the preview inside."""
    pytest.importorskip("rawpy")
    preview = BytesIO()
    Image.new("RGB", (96, 64)).save(preview, "JPEG")
    content = dng(preview.getvalue(), (96, 64), preview_first=preview_first)
    photo = tmp_path / "a.dng"
    photo.write_bytes(content)
    assert embedded_packet(as_image(photo)).is_empty
    edit = 'xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:HasCrop="True"'
    photo.write_bytes(content + XMP.format(edit, "").encode())
    packet = embedded_packet(as_image(photo))
    assert packet.values(TITLE) == ["Dawn"] and b"HasCrop" in packet.to_bytes()


def test_extended_xmp(tmp_path: Path) -> None:
    """Joined in the order of its parts; values as long as pictures stay in the image."""
    name = "0123456789ABCDEF0123456789ABCDEF"
    note = f'note:HasExtendedXMP="{name}"'
    photo = make_photo(tmp_path / "a.jpg", xmp=XMP.format(note, "").encode())
    extension = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
      xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:e="urn:e"
      e:depth="{"A" * 100_000}"><e:story>long</e:story></rdf:Description></rdf:RDF></x:xmpmeta>"""
    parts = [(at, extension[at : at + 60_000]) for at in range(0, len(extension), 60_000)]
    whole = b"".join(
        segment_of(
            b"http://ns.adobe.com/xmp/extension/\0"
            + name.encode()
            + len(extension).to_bytes(4, "big")
            + at.to_bytes(4, "big")
            + text.encode(),
            1,
        )
        for at, text in reversed(parts)
    )
    raw = photo.read_bytes()
    photo.write_bytes(raw[:2] + whole + raw[2:])
    content = embedded_packet(as_image(photo)).to_bytes()
    assert b"<e:story>long</e:story>" in content and b"AAAA" not in content
    assert b"HasExtendedXMP" not in content and b"Dawn" in content
    photo.write_bytes(raw[:2] + whole[:60_000] + raw[2:])
    with pytest.raises(DataError, match=r"a\.jpg: its metadata cannot be read"):
        embedded_packet(as_image(photo))


def test_tags_of_ours_in_an_image_are_not_the_persons(tmp_path: Path) -> None:
    """A program has written our sidecar into the image; the next sidecar starts without."""
    tags, author = [Tag("sky", (("sky",),))], Author("model", "c0ffee")
    ours = retag(xmp_of("sea"), tags, author).content or b""
    copied = ours.replace(b"<rdf:li>sea", b"<rdf:li>dog</rdf:li><rdf:li>sea", 1)
    iptc = data_set(25, "sky") + data_set(25, "sea")
    packet = embedded_packet(as_image(make_photo(tmp_path / "a.jpg", xmp=copied, iptc=iptc)))
    assert set(own_keywords(packet)) == {"dog", "sea"}
    assert b"mlcrf:" not in packet.to_bytes()
    new = retag(None, tags, author, lambda: packet).content or b""
    assert Packet(new).values(SUBJECT)[-1] == "sky"
    assert retag(new, [], None).content is None


def test_a_damaged_packet_is_an_error(tmp_path: Path) -> None:
    """A sidecar that hid what other programs may still read would lose it."""
    photo = make_photo(tmp_path / "a.jpg", xmp=b"<rdf:RDF no xml")
    with pytest.raises(DataError, match=r"a\.jpg: its XMP cannot be read: it is not XML"):
        embedded_packet(as_image(photo))
    image = BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG", xmp=b"no packet at all")
    other = tmp_path / "b.jpg"
    other.write_bytes(image.getvalue())
    assert embedded_packet(as_image(other)).is_empty
