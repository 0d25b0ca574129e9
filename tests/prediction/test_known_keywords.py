"""Known labels from the keywords that photos carry."""

from pathlib import Path

from mlcrf.images import as_image
from mlcrf.keywords.sidecar_places import PhotoPlaces
from mlcrf.labels import LabelSpace
from mlcrf.prediction import KnownKeywords, LabelSelection, Prediction, read_known
from mlcrf.prediction.photo_files.sidecars import Sidecars
from mlcrf.rules import Rules
from tests.keywords.pictures import iptc_of, make_photo, xmp_of
from tests.making import images_of
from tests.prediction.photo_files.test_photo_file_set import AUTHOR

LABELS = LabelSpace(("sea", "sky", "bird", "indoor"))
RULES = Rules.from_names([("bird", "sky")], LABELS)


def keywords(*places: PhotoPlaces, **names: str) -> KnownKeywords:
    selection = LabelSelection(LABELS, RULES, renamed=names)
    return KnownKeywords(selection, places or [PhotoPlaces()])


def test_present_or_unknown(tmp_path: Path) -> None:
    """Found without regard to case, in picture and sidecar; other keywords do not matter."""
    one = make_photo(tmp_path / "1.jpg", xmp=xmp_of("SEA", "Ann"), iptc=iptc_of(b"Indoor"))
    two = make_photo(tmp_path / "2.jpg")
    (tmp_path / "2.xmp").write_bytes(xmp_of("bird"))
    plain = make_photo(tmp_path / "3.jpg")
    known = read_known(LABELS, RULES, keywords=keywords())
    assert known.of(images_of([one, two, plain])).tolist() == [
        [1, -1, -1, 1],
        [-1, -1, 1, -1],
        [-1] * 4,
    ]


def test_by_the_users_own_names(tmp_path: Path) -> None:
    """And by those of the run, unless they are another label's now."""
    photo = make_photo(tmp_path / "1.jpg", xmp=xmp_of("Vogel", "sea"))
    known = read_known(LABELS, RULES, keywords=keywords(bird="vogel", sea="Meer"))
    assert known.of(images_of([photo])).tolist() == [[1, -1, 1, -1]]
    known = read_known(LABELS, RULES, keywords=keywords(sky="sea", sea="sky"))
    assert known.of(images_of([photo])).tolist() == [[-1, 1, -1, -1]]


def test_what_is_said_otherwise_wins(tmp_path: Path) -> None:
    """--given and --known before keywords, also where they only follow by an implication."""
    photo = make_photo(tmp_path / "1.jpg", xmp=xmp_of("bird", "sea"))
    known = read_known(LABELS, RULES, given="sky=0", keywords=keywords())
    assert known.of(images_of([photo])).tolist() == [[1, 0, -1, -1]]
    assert known.told_of(images_of([photo])).tolist() == [[-1, 0, -1, -1]]
    table = tmp_path / "known.csv"
    table.write_text("image,sea\n1.jpg,0\n")
    known = read_known(LABELS, RULES, table=table, keywords=keywords())
    assert known.of(images_of([photo])).tolist() == [[0, -1, 1, -1]]


def test_ours_do_not_confirm_themselves(tmp_path: Path) -> None:
    """Tags of an earlier run say nothing; nor do those in a parallel tree."""
    photo = make_photo(tmp_path / "in" / "1.jpg", xmp=xmp_of("sea"))
    tree = PhotoPlaces(tmp_path / "out", [tmp_path / "in"])
    for places in (PhotoPlaces(), tree):
        files = Sidecars(places, AUTHOR, LABELS, RULES)
        files.write(Prediction(as_image(photo), ("sky", "indoor"), confirmed=("indoor",)))
    known = read_known(LABELS, RULES, keywords=keywords(PhotoPlaces(), tree))
    assert known.of(images_of([photo])).tolist() == [[1, -1, -1, 1]]


def test_keywords_that_cannot_be_read(tmp_path: Path) -> None:
    """Nothing is known of that photo, and it is said."""
    photo = make_photo(tmp_path / "1.jpg", xmp=xmp_of("sea"))
    (tmp_path / "1.jpg.xmp").write_bytes(b"<no xmp")
    found = keywords()
    assert read_known(LABELS, RULES, keywords=found).of(images_of([photo])).tolist() == [[-1] * 4]
    assert len(found.unreadable) == 1 and "1.jpg.xmp" in found.unreadable[0]
