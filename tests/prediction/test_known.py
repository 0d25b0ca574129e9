"""Known labels: from a line, a table, a list, tag files; kept, followed, and refused."""

from pathlib import Path

import numpy as np
import pytest

from mlcrf.data.readers import ReadOptions
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.prediction import Tagger, read_known
from mlcrf.prediction.known import with_told
from mlcrf.rules import Rules
from tests.making import images_of

LABELS = LabelSpace(("sea", "sky", "bird", "indoor"))
RULES = Rules.from_names([("bird", "sky")], LABELS)


def photo(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"not read here")
    return path


def test_given_of_every_photo(tmp_path: Path) -> None:
    """Names in any order, spaces allowed; what is not named is unknown."""
    known = read_known(LABELS, RULES, given=" indoor=0, sea=1")
    assert known.of(images_of([tmp_path / "a.jpg", Path("b.jpg")])).tolist() == [[1, -1, -1, 0]] * 2
    assert not known.covers([as_image(tmp_path / "a.jpg")])
    assert read_known(LABELS, RULES).of([as_image("a.jpg")]).tolist() == [[-1] * 4]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("sea", SettingsError, r"--given sea: expected label=1 or label=0"),
        ("sea=2", SettingsError, r"--given sea=2: expected label=1 or label=0"),
        ("seaa=1", LabelsError, r"unknown label 'seaa'; did you mean 'sea'\?"),
        ("bird=1,sky=0", SettingsError, r"sky is given as absent, but a label"),
        ("sea=1,", SettingsError, r"expected label=1 or label=0"),
        ("sea=1,sea=0", SettingsError, r"--given sea=1,sea=0: sea is given as 1 and as 0"),
    ],
)
def test_given_that_is_wrong(given: str, error: type[Exception], message: str) -> None:
    """One line that says what."""
    with pytest.raises(error, match=message):
        read_known(LABELS, RULES, given=given)


def test_columns_are_taken_at_their_word(tmp_path: Path) -> None:
    """Some of the labels, some of them unknown; a photo's own win over those of all."""
    one, other = photo(tmp_path, "1.jpg"), photo(tmp_path, "2.jpg")
    table = tmp_path / "known.csv"
    table.write_text("image,sky,indoor\n1.jpg,1,\n2.jpg,?,1\n")
    known = read_known(LABELS, RULES, given="indoor=0", table=table)
    found = known.of(images_of([other, one, tmp_path / "3.jpg"]))
    assert found.tolist() == [[-1, -1, -1, 1], [-1, 1, -1, 0], [-1, -1, -1, 0]]
    assert known.covers([as_image(one)]) and not known.covers([as_image(tmp_path / "3.jpg")])


def test_a_list_says_what_is_present_only(tmp_path: Path) -> None:
    """As a column of a table, and as tag files beside photos."""
    one = photo(tmp_path, "1.jpg")
    table = tmp_path / "known.csv"
    table.write_text("image,labels\n1.jpg,sea;bird\n")
    known = read_known(LABELS, RULES, table=table)
    assert known.of(images_of([one])).tolist() == [[1, -1, 1, -1]]
    folder = tmp_path / "tagged"
    folder.mkdir()
    tagged = photo(folder, "2.jpg")
    (folder / "2.txt").write_text("sky\n")
    known = read_known(LABELS, RULES, table=folder)
    assert known.of(images_of([tagged])).tolist() == [[-1, 1, -1, -1]]


def test_tables_that_are_wrong(tmp_path: Path) -> None:
    """A label that there is not, and what cannot be; both name their place."""
    one = photo(tmp_path, "1.jpg")
    table = tmp_path / "known.csv"
    table.write_text("image,sky,bird\n1.jpg,0,1\n")
    with pytest.raises(DataError, match=rf"known\.csv: {one}: sky is given as absent"):
        read_known(LABELS, RULES, table=table)
    table.write_text("image,lake\n1.jpg,1\n")
    with pytest.raises(LabelsError, match="unknown label 'lake'"):
        read_known(LABELS, RULES, table=table)
    table.write_text("image,bird\n1.jpg,1\n")
    with pytest.raises(DataError, match="sky is given as absent"):
        read_known(LABELS, RULES, given="sky=0", table=table)


def test_relative_paths_and_another_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo is found under any name of its path."""
    photo(tmp_path, "1.jpg")
    table = tmp_path / "known.csv"
    table.write_text("image,sea\n1.jpg,1\n")
    monkeypatch.chdir(tmp_path)
    known = read_known(LABELS, RULES, table=table, options=ReadOptions(image_root=Path()))
    for name in ("1.jpg", "./1.jpg", f"../{tmp_path.name}/1.jpg"):
        assert np.array_equal(known.of(images_of([Path(name)]))[0], [1, -1, -1, -1])


def test_none_is_unknown() -> None:
    """Of labels that a caller tells of an image."""
    told = with_told(None, {"a.jpg": {"sea": None, "sky": True}}, LABELS, RULES)
    assert told.of([as_image("a.jpg")]).tolist() == [[-1, 1, -1, -1]]


def test_one_image_is_no_list_of_letters() -> None:
    for image in ("photo.jpg", Path("photo.jpg"), as_image("photo.jpg")):
        with pytest.raises(TypeError, match=r"several, as in predict\(\['photo.jpg'\]\)"):
            Tagger.predict(None, image)  # type: ignore[arg-type]
