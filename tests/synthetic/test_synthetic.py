"""The planted CRF and the scenes that are drawn from it."""

import json
import math
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlcrf.errors import DataError, SettingsError
from mlcrf.synthetic import dataset
from mlcrf.synthetic.dataset import make_dataset, split_by_order
from mlcrf.synthetic.planted import COUPLINGS, FREQUENCIES, every_state, make_planted_crf
from mlcrf.synthetic.scenes import MARKS, draw_marks, draw_scene, visibility


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "small"
    make_dataset(folder, seed=3, num_images=40)
    return folder


def test_probabilities_equal_plain_python() -> None:
    """Ratios of exact probabilities are the exponentials of score differences."""
    planted = make_planted_crf()
    probabilities = planted.probabilities()
    assert math.fsum(probabilities) == pytest.approx(1)
    for row in (0, 1, 77, 1365, 4095):
        present = [i for i in range(12) if row >> i & 1]
        score = math.fsum(planted.bias[i] for i in present) + math.fsum(
            planted.pairwise_matrix[i, j] for i, j in combinations(present, 2)
        )
        assert math.log(probabilities[row] / probabilities[0]) == pytest.approx(score, abs=1e-9)


def test_states_are_all_and_in_order() -> None:
    """Every label set stands once, label 0 turning fastest."""
    expected = [bits[::-1] for bits in product((0, 1), repeat=4)]
    assert every_state(4).astype(int).tolist() == [list(bits) for bits in expected]


@pytest.mark.parametrize("strength", [0, 0.5, 1, 2])
def test_marginals_do_not_depend_on_strength(strength: float) -> None:
    """Each label occurs as often as planned, between 15 and 45 %, at every coupling strength."""
    planted = make_planted_crf(coupling_strength=strength)
    assert planted.marginals() == pytest.approx(list(FREQUENCIES.values()), abs=1e-4)
    assert all(0.15 <= frequency <= 0.45 for frequency in FREQUENCIES.values())


def test_no_coupling_is_independence() -> None:
    """At strength 0 the bias is the log-odds of the frequency and p(y) is a product."""
    planted = make_planted_crf(coupling_strength=0)
    frequencies = np.array(list(FREQUENCIES.values()))
    assert planted.bias == pytest.approx(np.log(frequencies / (1 - frequencies)), abs=1e-6)
    assert planted.probabilities()[-1] == pytest.approx(frequencies.prod(), rel=1e-4)


def test_matrix_is_what_was_planted() -> None:
    """The matrix is symmetric, has a zero diagonal, the couplings listed and no others."""
    planted = make_planted_crf(coupling_strength=0.5)
    matrix = planted.pairwise_matrix
    assert np.array_equal(matrix, matrix.T)
    assert not matrix.diagonal().any()
    for (one, other), coupling in COUPLINGS.items():
        assert matrix[planted.labels.index(one), planted.labels.index(other)] == coupling / 2
    assert np.count_nonzero(np.triu(matrix)) == len(COUPLINGS)
    assert all(0.5 <= abs(coupling) <= 4 for coupling in COUPLINGS.values())


def test_hard_labels_have_company() -> None:
    """Each hard label has several strong couplings, and no two easy labels are coupled."""
    planted = make_planted_crf()
    for name in planted.hard:
        row = planted.pairwise_matrix[planted.labels.index(name)]
        assert np.count_nonzero(np.abs(row) >= 1.5) >= 3
    assert all(set(pair) & set(planted.hard) for pair in COUPLINGS)


def test_samples_have_the_exact_frequencies() -> None:
    """Counts of labels and of pairs lie within five standard errors of the exact probabilities."""
    planted = make_planted_crf()
    num = 20_000
    drawn = planted.sample(num, np.random.default_rng(5)).astype(float)
    states = every_state(12)
    exact = (states * planted.probabilities()[:, None]).T @ states
    error = np.sqrt(exact * (1 - exact) / num)
    assert (np.abs(drawn.T @ drawn / num - exact) <= 5 * error).all()


def test_samples_have_a_stable_prefix() -> None:
    """The first label sets do not depend on how many are drawn."""
    planted = make_planted_crf()
    few = planted.sample(10, np.random.default_rng(1))
    many = planted.sample(100, np.random.default_rng(1))
    assert np.array_equal(few, many[:10])


def test_marks_follow_their_own_label() -> None:
    """A mark is shown as often as its visibility says, and not oftener next to another mark."""
    planted = make_planted_crf()
    rng = np.random.default_rng(0)
    present = np.array([1, 0] * 6, dtype=np.int8)
    shown = np.array([draw_marks(present, planted, rng) for _ in range(4000)]).astype(float)
    kinds = [visibility(name, planted) for name in planted.labels]
    expected = np.array(
        [k.if_present if y else k.if_absent for k, y in zip(kinds, present, strict=True)]
    )
    together = np.outer(expected, expected)
    np.fill_diagonal(together, expected)
    error = np.sqrt(together * (1 - together) / 4000)
    assert (np.abs(shown.T @ shown / 4000 - together) <= 5 * error).all()


def test_every_label_has_a_mark_that_shows() -> None:
    """Each mark is drawn: with it the picture differs from the same picture without."""
    planted = make_planted_crf()
    assert set(MARKS) == set(planted.labels)

    class Forced(np.random.Generator):
        """Shows no mark but one: the first draw of a scene decides which are shown."""

        only = -1
        decided = False

        def random(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if self.decided:
                return super().random(*args, **kwargs)
            self.decided = True
            return np.where(np.arange(12) == self.only, -1.0, 2.0)

    def picture(only: int) -> np.ndarray:
        rng = Forced(np.random.PCG64(4))
        rng.only = only
        nothing = np.zeros(12, dtype=np.int8)
        return np.asarray(draw_scene(nothing, planted, rng, image_size_px=64), dtype=float)

    bare = picture(-1)
    for label in range(12):
        changed = np.abs(picture(label) - bare).max(axis=2) > 40
        assert changed.sum() >= 20, planted.labels.names[label]


def test_same_seed_same_bits(small: Path, tmp_path: Path) -> None:
    """All files of a data set are the same for the same seed and differ for another."""
    make_dataset(tmp_path / "again", seed=3, num_images=40)
    assert contents(tmp_path / "again") == contents(small)
    make_dataset(tmp_path / "other", seed=4, num_images=40)
    for name in ("labels.csv", "images/000000.jpg"):
        assert contents(tmp_path / "other")[name] != contents(small)[name]


def test_images_do_not_depend_on_their_number(small: Path, tmp_path: Path) -> None:
    """The first images and their labels are those of a larger data set of the same seed."""
    make_dataset(tmp_path / "few", seed=3, num_images=12)
    few = contents(tmp_path / "few")
    for name in (name for name in few if name.endswith(".jpg")):
        assert few[name] == (small / name).read_bytes()
    part = pd.read_csv(tmp_path / "few" / "labels.csv").drop(columns="split")
    whole = pd.read_csv(small / "labels.csv").drop(columns="split")
    assert part.equals(whole.head(12))


def test_table_is_read_by_pandas(small: Path) -> None:
    """The table has a row for each image, splits in order, and 0 or 1 for each label."""
    table = pd.read_csv(small / "labels.csv")
    assert list(table.columns) == ["image", "split", *FREQUENCIES]
    assert table["split"].tolist() == ["train"] * 24 + ["validation"] * 6 + ["test"] * 10
    assert table[list(FREQUENCIES)].isin([0, 1]).all(axis=None)
    assert {path.name for path in (small / "images").iterdir()} == {
        Path(name).name for name in table["image"]
    }
    for name in table["image"]:
        with Image.open(small / name) as image:
            assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "JPEG")


def test_truth_is_what_was_planted(small: Path) -> None:
    """Both files of the truth hold the matrix that the label sets were sampled from."""
    planted = make_planted_crf()
    truth = json.loads((small / "truth.json").read_text())
    assert truth["labels"] == list(planted.labels)
    assert truth["hard"] == list(planted.hard)
    assert truth["bias"] == planted.bias.tolist()
    assert truth["pairwise_matrix"] == planted.pairwise_matrix.tolist()
    table = pd.read_csv(small / "couplings.csv", index_col="label")
    assert list(table.index) == list(table.columns) == list(planted.labels)
    assert np.array_equal(table.to_numpy(), planted.pairwise_matrix)


@pytest.mark.parametrize("num_images", [4, 5, 7, 100, 1501])
def test_splits_cover_all_images(num_images: int) -> None:
    """Every image has a split, in order, and no split is empty."""
    splits = [str(split) for split in split_by_order(num_images)]
    assert len(splits) == num_images
    assert list(dict.fromkeys(splits)) == ["train", "validation", "test"]
    assert splits.count("train") == round(0.6 * num_images)


def test_own_work_is_replaced(tmp_path: Path) -> None:
    """An earlier data set of ours makes room for the new one, and nothing is left beside it."""
    make_dataset(tmp_path / "data", seed=0, num_images=8)
    make_dataset(tmp_path / "data", seed=0, num_images=4)
    assert len(list((tmp_path / "data" / "images").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("where", ["notes.txt", "images/mine.jpg"])
def test_foreign_files_are_not_overwritten(tmp_path: Path, where: str) -> None:
    """A folder with anything that is not ours is refused and left untouched."""
    make_dataset(tmp_path / "data", num_images=4)
    (tmp_path / "data" / where).write_text("mine")
    before = contents(tmp_path / "data")
    with pytest.raises(DataError, match="Choose another folder"):
        make_dataset(tmp_path / "data", num_images=4)
    assert contents(tmp_path / "data") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_foreign_truth_is_not_overwritten(tmp_path: Path) -> None:
    """A folder of the same file names, but not made by us, is refused; so is a file."""
    make_dataset(tmp_path / "data", num_images=4)
    (tmp_path / "data" / "truth.json").write_text("[]")
    with pytest.raises(DataError, match="exists"):
        make_dataset(tmp_path / "data", num_images=4)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="exists"):
        make_dataset(tmp_path / "file", num_images=4)
    assert (tmp_path / "file").read_text() == "mine"


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If drawing fails half-way, the earlier data set stands whole and no other file is left."""
    make_dataset(tmp_path / "data", num_images=4)
    before = contents(tmp_path / "data")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset, "_write_truth", full)
    with pytest.raises(DataError, match="No space left"):
        make_dataset(tmp_path / "data", num_images=5)
    assert contents(tmp_path / "data") == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": -1},
        {"num_images": 3},
        {"image_size_px": 8},
        {"coupling_strength": -1},
        {"coupling_strength": math.nan},
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, setting: dict[str, int]) -> None:
    """Every setting out of range is named, and nothing is written."""
    with pytest.raises(SettingsError, match=next(iter(setting))):
        make_dataset(tmp_path / "data", **setting)
    assert not any(tmp_path.iterdir())
