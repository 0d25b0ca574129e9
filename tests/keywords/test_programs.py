"""Other programs read what we write, and we keep what they wrote: exiftool, exiv2, darktable."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlcrf.images import as_image
from mlcrf.keywords.embedded import embedded_packet
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.retagging import Author, Tag, retag
from mlcrf.keywords.xmp import Packet, Property
from tests.keywords.pictures import iptc_of, make_photo


def needs(program: str) -> pytest.MarkDecorator:
    missing = shutil.which(program) is None
    return pytest.mark.skipif(missing, reason=f"{program} is not installed; make ci-system does")


AUTHOR = Author("a model", "c0ffee")
TAGS = [
    Tag("people", (("people",),)),
    Tag("child <&'\">", (("people", "child <&'\">"),)),
    Tag("straße", (("straße",),)),
]


def run(*words: object) -> str:
    result = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def exiftool(*words: object) -> str:
    return run("exiftool", *words)


def read(path: Path) -> dict[str, Any]:
    found = json.loads(exiftool("-json", "-G1", "-a", "-struct", path))[0]
    return {name: value for name, value in found.items() if name.startswith("XMP-")}


@needs("exiftool")
def test_exiftool_reads_our_sidecar(tmp_path: Path) -> None:
    """The same lists, without a warning, as groups of Dublin Core, Lightroom and digiKam."""
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(retag(None, TAGS, AUTHOR).content or b"")
    found = read(path)
    assert found["XMP-dc:Subject"] == ["people", "child <&'\">", "straße"]
    assert found["XMP-lr:HierarchicalSubject"] == ["people|child <&'\">", "straße"]
    assert found["XMP-digiKam:TagsList"] == ["people/child <&'\">", "straße"]
    assert found["XMP-mlcrf:TaggedBy"] == "a model"
    assert exiftool("-validate", "-warning", "-a", path).split(":")[1].strip() == "OK"
    plain = json.loads(exiftool("-json", path))[0]
    assert plain["Subject"] == found["XMP-dc:Subject"]


@needs("exiftool")
def test_a_sidecar_by_exiftool_is_extended_without_loss(tmp_path: Path) -> None:
    """All that it wrote is read back as before, with our tags and again without."""
    path = tmp_path / "a.xmp"
    words = [
        "-XMP-dc:Subject=own",
        "-XMP-dc:Title=A title",
        "-XMP-xmp:Rating=4",
        "-XMP-dc:Creator=Me",
    ]
    words += ["-XMP-lr:HierarchicalSubject=places|own", "-XMP-exif:GPSLatitude=48.1"]
    words += ["-XMP-mwg-rs:RegionInfo={RegionList=[{Name=Ann,Type=Face}]}"]
    exiftool(*words, path)
    before = read(path)
    path.write_bytes(retag(path.read_bytes(), TAGS, AUTHOR).content or b"")
    after = read(path)
    kept = {name: value for name, value in after.items() if not name.startswith("XMP-mlcrf")}
    assert kept.pop("XMP-dc:Subject") == ["own", "people", "child <&'\">", "straße"]
    assert kept.pop("XMP-lr:HierarchicalSubject")[0] == "places|own"
    assert kept.pop("XMP-digiKam:TagsList") == ["places/own", "people/child <&'\">", "straße"]
    gone = {"XMP-dc:Subject", "XMP-lr:HierarchicalSubject"}
    assert kept == {name: value for name, value in before.items() if name not in gone}
    path.write_bytes(retag(path.read_bytes(), [], None).content or b"")
    assert read(path) == before


@needs("exiftool")
def test_our_marks_outlive_an_edit_by_exiftool(tmp_path: Path) -> None:
    """Another program writes the whole file anew; ours is still taken out, its own stays."""
    path = tmp_path / "a.jpg.xmp"
    path.write_bytes(retag(None, TAGS, AUTHOR).content or b"")
    exiftool("-overwrite_original", "-XMP-dc:Subject+=mine", "-XMP-xmp:Rating=5", path)
    left = retag(path.read_bytes(), [], None).content
    assert left is not None
    path.write_bytes(left)
    found = read(path)
    assert found["XMP-dc:Subject"] == ["mine"] and found["XMP-xmp:Rating"] == 5
    assert not [name for name in found if "mlcrf" in name or "Tag" in name]


@needs("exiftool")
def test_keywords_that_exiftool_put_into_a_photo(tmp_path: Path) -> None:
    """IPTC and XMP in the JPEG, in its default encodings."""
    photo = make_photo(tmp_path / "a.jpg")
    exiftool("-IPTC:Keywords=Straße", "-IPTC:Keywords=sea", "-XMP-dc:Subject=日本", photo)
    assert sorted(read_keywords(as_image(photo))) == ["Straße", "sea", "日本"]


EMBEDDED = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4">
 <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Dawn</rdf:li></rdf:Alt></dc:title>
 <lr:hierarchicalSubject><rdf:Bag><rdf:li>Places|Sea</rdf:li></rdf:Bag></lr:hierarchicalSubject>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    """A photo with a title, a rating and keywords inside, and our sidecar."""
    exif = Image.Exif()
    exif[0x013B], exif[0x010E] = "Ann", "A caption"
    photo = make_photo(tmp_path / "a.jpg", xmp=EMBEDDED.encode(), iptc=iptc_of(b"boat"), exif=exif)
    sidecar = retag(None, TAGS, AUTHOR, lambda: embedded_packet(as_image(photo))).content
    (tmp_path / "a.jpg.xmp").write_bytes(sidecar or b"")
    return photo


@needs("exiv2")
def test_exiv2_reads_every_list(tagged: Path) -> None:
    """It is what digiKam and darktable read XMP with; they lose what it cannot parse."""
    found = dict(
        line.split(maxsplit=1) for line in run("exiv2", "-PXkt", f"{tagged}.xmp").splitlines()
    )
    assert found["Xmp.digiKam.TagsList"].startswith("Places/Sea, boat, people/child")
    assert found["Xmp.lr.hierarchicalSubject"].startswith("Places|Sea, boat, people|child")
    assert found["Xmp.dc.subject"] == "Sea, boat, people, child <&'\">, straße"
    assert found["Xmp.dc.title"] == 'lang="x-default" Dawn' and found["Xmp.xmp.Rating"] == "4"
    assert found["Xmp.dc.creator"] == "Ann"
    assert found["Xmp.dc.description"] == 'lang="x-default" A caption'


@needs("darktable-cli")
def test_darktable_shows_what_is_embedded_and_our_tags(tagged: Path, tmp_path: Path) -> None:
    """In its export, which has the metadata that darktable holds for the photo."""
    out = tmp_path / "out.jpg"
    core = ["--core", "--configdir", tmp_path / "config", "--library", ":memory:"]
    run("darktable-cli", tagged, out, "--width", 8, *core)
    with Image.open(out) as image:
        packet = Packet(image.info["xmp"])
    names = packet.values(Property("dc", "subject"))
    assert {"Sea", "boat", "child <&'\">", "straße", "people"} <= set(names)
    texts = {name: packet.values(Property(*name.split(":"))) for name in TEXTS}
    assert texts == TEXTS


@needs("darktable-cli")
def test_what_darktable_writes_is_kept_without_our_tags(tagged: Path, tmp_path: Path) -> None:
    """It writes the sidecar anew, with its history and all levels of our tags in dc:subject."""
    sidecar = tagged.with_name("a.jpg.xmp")
    core = ["--core", "--configdir", tmp_path / "config", "--library", tmp_path / "library.db"]
    core += ["--conf", "write_sidecar_files=on import"]
    run("darktable-cli", tagged, tmp_path / "out.jpg", "--width", 8, *core)
    raw = sidecar.read_bytes()
    assert b"darktable:history" in raw and b"stra" in raw
    left = retag(raw, [], None).content or b""
    packet = Packet(left)
    assert set(packet.values(Property("dc", "subject"))) == {"Places", "Sea", "boat"}
    assert packet.values(Property("lr", "hierarchicalSubject")) == ["Places|Sea", "boat"]
    assert packet.values(Property("digiKam", "TagsList", "Seq")) == []  # which we had made
    assert b"darktable:history" in left and packet.values(Property("xmp", "Rating")) == ["4"]


TEXTS = {
    "dc:title": ["Dawn"],
    "xmp:Rating": ["4"],
    "dc:creator": ["Ann"],
    "dc:description": ["A caption"],
}
