"""Our labels find their place among the keywords that a collection has."""

import os
from pathlib import Path

import pytest

from mlcrf.errors import DataError, SettingsError
from mlcrf.images import as_image
from mlcrf.keywords.collection import collection_keywords
from mlcrf.keywords.keyword_lists import HIERARCHICAL_SUBJECT, SUBJECT, TAGS_LIST
from mlcrf.keywords.photo_keywords import load_sidecar, read_keywords
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.keywords.xmp import Packet
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Origin, PhotoFileOptions, Prediction
from mlcrf.rules import Rules
from tests.keywords.pictures import iptc_of, make_photo, xmp_of

LABELS = LabelSpace(("sea", "people", "people_r1", "dog", "night"))
RULES = Rules.from_names((("people_r1", "people"),), LABELS)


def packet_of(*paths: str) -> bytes:
    packet = Packet.new()
    HIERARCHICAL_SUBJECT.add(packet, [tuple(path.split("|")) for path in paths])
    return packet.to_bytes()


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """A collection with a tree in sidecars and images, and flat keywords."""
    found = [make_photo(tmp_path / f"{name}.jpg") for name in "abc"]
    found.append(make_photo(tmp_path / "d.jpg", xmp=packet_of("Places|Sea|Baltic")))
    found.append(make_photo(tmp_path / "e.jpg", xmp=xmp_of("DOG", "night"), iptc=iptc_of(b"Night")))
    (tmp_path / "b.xmp").write_bytes(packet_of("Who|People", "Animals|Dog"))
    (tmp_path / "c.jpg.xmp").write_bytes(b"damaged")
    return found


def test_keywords_of_the_collection(photos: list[Path]) -> None:
    """In the person's spelling, at any level; one with levels before a flat one."""
    found = collection_keywords(map(as_image, photos), PhotoPlaces(), LABELS)
    assert found == {
        "sea": ("Places", "Sea"),
        "people": ("Who", "People"),
        "dog": ("Animals", "Dog"),
        "night": ("night",),
    }


@pytest.mark.parametrize("parent", ["AI", "Auto | AI"])
def test_labels_join_the_persons_tree(photos: list[Path], parent: str) -> None:
    """What is there is used; what is new goes below the parent; undone all is as before."""
    above = parent.replace(" ", "")
    before = {path: path.read_bytes() for path in photos[0].parent.iterdir()}
    images = [as_image(photo) for photo in photos]
    for _ in range(2):
        files = PhotoFileOptions(xmp=True, parent=parent).make(
            PhotoPlaces(), LABELS, Origin("model", "c0ffee", RULES), images
        )
        files.write(Prediction(images[0], ("sea", "people", "people_r1", "night")))
        files.write(Prediction(images[1], ("sea", "dog")))
        packet = Packet((photos[0].parent / "a.jpg.xmp").read_bytes())
        levels = ["Places|Sea", "Who|People|people_r1", "night"]
        assert packet.values(HIERARCHICAL_SUBJECT.keywords) == levels
        assert packet.values(SUBJECT.keywords) == ["Sea", "People", "people_r1", "night"]
        packet = Packet((photos[0].parent / "b.xmp").read_bytes())
        tags = ["Who/People", "Animals/Dog", "Places/Sea"]
        assert packet.values(TAGS_LIST.keywords) == tags
    alone = PhotoFileOptions(xmp=True, parent=parent).make(
        PhotoPlaces(), LABELS, Origin("model", "c0ffee", RULES), images[:1]
    )
    alone.write(Prediction(images[0], ("sea", "people", "people_r1")))
    packet = Packet((photos[0].parent / "a.jpg.xmp").read_bytes())
    assert packet.values(HIERARCHICAL_SUBJECT.keywords) == [
        f"{above}|sea",
        f"{above}|people|people_r1",
    ]
    assert packet.values(SUBJECT.keywords) == ["sea", "people", "people_r1"]
    PhotoFileOptions(xmp=True).undo(images, PhotoPlaces())
    assert {path: path.read_bytes() for path in photos[0].parent.iterdir()} == before


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    """A pipe among photos, and one in the place of a sidecar, have no keywords."""
    for name in ("pipe.jpg", "raw.dng", "b.jpg.xmp"):
        os.mkfifo(tmp_path / name)
    photos = [as_image(tmp_path / name) for name in ("pipe.jpg", "raw.dng", "b.jpg")]
    assert not collection_keywords(photos, PhotoPlaces(), LABELS)
    with pytest.raises(DataError, match=r"pipe\.jpg: .*not a regular file"):
        read_keywords(photos[0])
    with pytest.raises(DataError, match=r"b\.jpg\.xmp: cannot be read: not a regular file"):
        load_sidecar(tmp_path / "b.jpg.xmp")


def test_a_parent_that_no_list_can_hold(photos: list[Path]) -> None:
    """Refused before the work."""
    options = PhotoFileOptions(xmp=True, parent="AI/auto")
    with pytest.raises(SettingsError, match=r"^--parent AI/auto: / separates levels"):
        options.make(PhotoPlaces(), LABELS, Origin("model", "", RULES), [as_image(photos[0])])
