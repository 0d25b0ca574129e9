"""Matrices of label pairs: counts, phi, files, and how they agree."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from mlcrf.errors import DataError
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf
from mlcrf.reports import correlations
from tests.mirror import ROOT

TARGETS = np.random.default_rng(0).integers(-1, 2, (60, 4)).astype(np.int8)
LABELS = LabelSpace(("sea", "sky", "plant_life", "dog"))


def test_cooccurrence_counts_pairs_by_hand() -> None:
    """Each entry is the number of images with both labels present."""
    counts = correlations.cooccurrence(TARGETS)
    for i in range(4):
        for j in range(4):
            both = sum(1 for row in TARGETS if row[i] == 1 and row[j] == 1)
            assert counts[i, j] == (0 if i == j else both)


def test_phi_is_pearson_over_images_where_both_are_known() -> None:
    """Phi equals Pearson's correlation of the 0/1 columns without the unknown."""
    phi = correlations.phi(TARGETS)
    for i, j in ((0, 1), (1, 3), (2, 3)):
        known = (TARGETS[:, i] >= 0) & (TARGETS[:, j] >= 0)
        expected = pearsonr(TARGETS[known, i], TARGETS[known, j]).statistic
        assert phi[i, j] == pytest.approx(expected)
    assert np.array_equal(phi, phi.T)


def test_phi_of_a_constant_label_is_unknown() -> None:
    """A label that never varies has no correlation: NaN, not 0."""
    targets = np.array([[1, 0], [1, 1], [1, 0]], dtype=np.int8)
    assert np.isnan(correlations.phi(targets)[0, 1])


def test_matrix_survives_its_file(tmp_path: Path) -> None:
    """What `format_matrix` writes, `load_matrix` reads, in any order of labels."""
    matrix = np.array([[0, 1.5, -2], [1.5, 0, np.nan], [-2, np.nan, 0]])
    path = tmp_path / "matrix.csv"
    path.write_text(correlations.format_matrix(matrix, ("dog", "sea", "plant life")))
    loaded = correlations.load_matrix(path, LABELS)
    assert loaded[0, 3] == 1.5
    assert loaded[2, 3] == -2
    assert np.isnan(loaded[0, 2])
    assert np.isnan(loaded[1]).all()


def test_lecture_matrix_has_six_unknown_pairs() -> None:
    """The published matrix is symmetric and leaves out just the pairs that its page names."""
    path = ROOT / "data" / "lecture_correlation_24.csv"
    names = path.read_text().splitlines()[0].split(",")[1:]
    matrix = correlations.load_matrix(path, LabelSpace(tuple(names)))
    assert np.isnan(matrix[np.triu_indices(24, 1)]).sum() == 6
    assert np.nanmax(matrix) == 0.74


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "square"),
        ("label,sea,sky\nsea,0,1\n", "square"),
        ("label,sea,sky\nsea,0,1\nsky,2,0\n", "not symmetric"),
        ("label,sea,sky\nsea,0,x\nsky,x,0\n", ":2: 'x' is not a number"),
        ("label,sea,sky\nsky,0,1\nsea,1,0\n", ":2: expected 'sea'"),
        ("label,cat,cow\ncat,0,1\ncow,1,0\n", "fewer than two labels"),
    ],
)
def test_bad_matrix_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    """Each fault is named with the file."""
    path = tmp_path / "matrix.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        correlations.load_matrix(path, LABELS)
    assert str(path) in str(caught.value)


def test_rank_agreement_over_all_and_over_strong_pairs() -> None:
    """Ranks agree fully over strong pairs while a weak, reversed pair lowers the whole."""
    learned = np.array([[0, 1, 2, 3], [1, 0, 9, 8], [2, 9, 0, 7], [3, 8, 7, 0.0]])
    other = np.array([[0, 0.03, 0.02, 0.01], [0.03, 0, 0.9, 0.8], [0.02, 0.9, 0, 0.7]])
    other = np.vstack([other, [0.01, 0.8, 0.7, 0]])
    whole, strong = correlations.rank_agreements(learned, other)
    assert (whole.pairs, strong.pairs) == (6, 3)
    assert strong.correlation == pytest.approx(1)
    assert 0 < whole.correlation < 1
    assert (whole.same_sign, strong.same_sign) == (6, 3)


def test_a_folder_is_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected phi, cooccurrence, or a CSV file"):
        correlations.load_matrix(tmp_path, LabelSpace(("a", "b")))


def test_two_pairs_have_no_rank_correlation() -> None:
    few = correlations.RankAgreement("all pairs", 2, float("nan"), 1)
    told = correlations.format_agreements("phi", [few])
    assert "nan" not in told and "(2): not known of so few or equal pairs, same sign in 1" in told


def test_strongest_pairs_are_sorted_and_signed() -> None:
    """Attractions fall, repulsions rise, and neither holds the other's sign."""
    model = LabelCrf(1, 3)  # of a and b, a and c, b and c
    with torch.no_grad():
        model.pairwise.copy_(torch.tensor([3.0, -1.0, 2.0]))
    attract, repel = correlations.strongest_pairs(model, ("a", "b", "c"))
    assert attract == [("a", "b", 3.0), ("b", "c", 2.0)]
    assert repel == [("a", "c", -1.0)]
    assert correlations.strongest_pairs(model, ("a", "b", "c"), count=1) == (attract[:1], repel)
