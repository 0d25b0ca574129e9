"""Which labels are written, by which names: the same for all outputs."""

from pathlib import Path

import pytest

from mlcrf.errors import DataError, LabelsError, MlcrfError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.prediction import LabelSelection, Prediction, load_names
from mlcrf.rules import Rules

LABELS = LabelSpace(("puppy", "dog", "animal", "sea", "sky"))
RULES = Rules.from_names([("puppy", "dog"), ("dog", "animal")], LABELS)


def predicted(*labels: str, confirmed: tuple[str, ...] = ()) -> Prediction:
    return Prediction(
        Path("a.jpg"), labels, (0.6, 0.7, 0.8, 0.9, 0.55), (0.5,) * 5, confirmed=confirmed
    )


def test_everything_by_default() -> None:
    """Nothing asked for, nothing changed."""
    prediction = predicted("dog", "animal", "sea")
    assert LabelSelection(LABELS, RULES)(prediction) == prediction


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"only": ["sea", "puppy"]}, ("puppy", "dog", "animal", "sea")),
        ({"only": ["sky"]}, ()),
        ({"only": []}, ()),
        ({"never": ["sea"]}, ("puppy", "dog", "animal")),
        ({"never": ["dog"]}, ("animal", "sea")),
        ({"never": ["puppy"]}, ("dog", "animal", "sea")),
        ({"min_prob": 0.75}, ("animal", "sea")),
        ({"min_prob": 0.6}, ("puppy", "dog", "animal", "sea")),
        ({"only": ["dog"], "never": ["puppy"], "min_prob": 0.7}, ("dog", "animal")),
    ],
)
def test_a_child_keeps_its_parents(settings: dict[str, object], left: tuple[str, ...]) -> None:
    """Only: with what it implies. Never: with what implies it. In the order of the run."""
    selection = LabelSelection(LABELS, RULES, **settings)  # type: ignore[arg-type]
    assert selection(predicted("puppy", "dog", "animal", "sea")).labels == left


def test_a_parent_less_probable_than_its_child_is_kept() -> None:
    """As approximate inference may have it."""
    prediction = Prediction(as_image("a.jpg"), ("dog", "animal"), (0.0, 0.9, 0.6, 0.0, 0.0))
    assert LabelSelection(LABELS, RULES, min_prob=0.8)(prediction).labels == ("dog", "animal")


def test_names_of_the_users_own() -> None:
    """Labels, columns and rules take the new names; what is confirmed brings its parents."""
    selection = LabelSelection(LABELS, RULES, renamed={"dog": "Hund", "sea": "dog"})
    assert selection.labels.names == ("puppy", "Hund", "animal", "dog", "sky")
    assert selection.rules.names(selection.labels) == (("puppy", "Hund"), ("Hund", "animal"))
    named = selection(predicted("puppy", "dog", "animal", "sea", confirmed=("dog",)))
    assert named.labels == ("puppy", "Hund", "animal", "dog")
    assert named.confirmed == ("Hund", "animal")
    assert named.marginals == predicted().marginals


def test_failed_pictures_pass() -> None:
    """An error stays one."""
    failed = Prediction(as_image("a.jpg"), error="broken")
    assert LabelSelection(LABELS, RULES, min_prob=0.5)(failed) == failed


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"only": ["dgo"]}, LabelsError, "did you mean 'dog'"),
        ({"never": [""]}, LabelsError, "unknown label ''"),
        ({"min_prob": 1.5}, SettingsError, "--min-prob: expected 0 to 1, got 1.5"),
        ({"min_prob": float("nan")}, SettingsError, "--min-prob"),
        ({"only": ["puppy"], "never": ["animal"]}, SettingsError, "--never animal forbids it"),
    ],
)
def test_what_cannot_be(settings: dict[str, object], error: type[MlcrfError], says: str) -> None:
    """One line that says which option."""
    with pytest.raises(error, match=says):
        LabelSelection(LABELS, RULES, **settings)  # type: ignore[arg-type]


def test_load_names(tmp_path: Path) -> None:
    """Header, blank lines, quotes, byte-order mark; labels may swap names."""
    file = tmp_path / "names.csv"
    file.write_text('\ufefflabel,name\n\ndog, Hund\nsea,"Meer, tief"\nsky,animal\nanimal,sky\n')
    names = load_names(file, LABELS)
    assert names == {"dog": "Hund", "sea": "Meer, tief", "sky": "animal", "animal": "sky"}
    file.write_text("")
    assert load_names(file, LABELS) == {}


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("dog,Hund\ndgo,x\n", LabelsError, ":2: unknown label 'dgo'; did you mean 'dog'"),
        ("label,name\ndog\n", DataError, ":2: expected two label names"),
        ("dog,\n", LabelsError, ":1: label '' is empty"),
        ("dog,a;b\n", LabelsError, ":1: label 'a;b' has a line break or semicolon"),
        ("dog,x\n\ndog,y\n", LabelsError, ":3: 'dog' occurs on line 1 too"),
        ("dog,x\nsea,x\n", LabelsError, ":2: 'x' would be the name of 'dog' too"),
        ("dog,sea\n", LabelsError, ":1: 'sea' would be the name of 'sea' too"),
        ("dog,SEA\n", LabelsError, ":1: 'SEA' would be the name of 'sea' too"),
        ('dog,"x\n', DataError, ":1: invalid CSV"),
        (b"dog,\xff\n", DataError, "not UTF-8"),
    ],
)
def test_names_that_are_wrong(
    tmp_path: Path, text: str | bytes, error: type[MlcrfError], says: str
) -> None:
    """The file, the line, and what is wrong with it."""
    file = tmp_path / "names.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=rf"names\.csv.*{says}"):
        load_names(file, LABELS)
