"""Another program reads what we write, and we keep what it wrote: exiftool."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlcrf.images import as_image
from mlcrf.keywords.photo_keywords import read_keywords
from mlcrf.keywords.retagging import Author, Tag, retag
from tests.keywords.pictures import make_photo

pytestmark = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool is not installed; make ci-system does"
)
AUTHOR = Author("a model", "c0ffee")
TAGS = [
    Tag("people", (("people",),)),
    Tag("child <&'\">", (("people", "child <&'\">"),)),
    Tag("straße", (("straße",),)),
]


def exiftool(*words: object) -> str:
    result = subprocess.run(
        ["exiftool", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def read(path: Path) -> dict[str, Any]:
    found = json.loads(exiftool("-json", "-G1", "-a", "-struct", path))[0]
    return {name: value for name, value in found.items() if name.startswith("XMP-")}


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


def test_keywords_that_exiftool_put_into_a_photo(tmp_path: Path) -> None:
    """IPTC and XMP in the JPEG, in its default encodings."""
    photo = make_photo(tmp_path / "a.jpg")
    exiftool("-IPTC:Keywords=Straße", "-IPTC:Keywords=sea", "-XMP-dc:Subject=日本", photo)
    assert sorted(read_keywords(as_image(photo))) == ["Straße", "sea", "日本"]
