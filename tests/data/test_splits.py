"""Splits that are made: shares, strata, the same every time, and no image in two."""

from collections import Counter

import numpy as np
import pytest

from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.splits import split_manifest
from mlcrf.errors import DataError, SettingsError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace


def make_manifest(
    num_images: int, num_labels: int = 3, *, splits: tuple[Split, ...] | None = None, seed: int = 0
) -> Manifest:
    """Labels of falling frequency, the last known of half of the images only."""
    rng = np.random.default_rng(seed)
    rates = 0.5 / 2.0 ** np.arange(num_labels)
    targets = (rng.random((num_images, num_labels)) < rates).astype(np.int8)
    targets[rng.random(num_images) < 0.5, -1] = -1
    names = tuple(f"label{column}" for column in range(num_labels))
    images = tuple(as_image(f"im{row}.jpg") for row in range(num_images))
    return Manifest(images, targets, LabelSpace(names), splits, "made")


def sizes(manifest: Manifest) -> dict[Split, int]:
    assert manifest.splits is not None
    return Counter(manifest.splits)


def test_shares_and_strata() -> None:
    """Each split has its share of the images, of each label's presences and of its unknowns."""
    manifest = make_manifest(1000)
    made = split_manifest(manifest, seed=1)
    assert made.images == manifest.images
    assert made.targets is manifest.targets
    shares = {Split.TRAIN: 0.7, Split.VALIDATION: 0.1, Split.TEST: 0.2}
    for split, share in shares.items():
        part = made.part(split)
        assert len(part) == pytest.approx(1000 * share, abs=15)
        for state in (1, -1):
            whole = (manifest.targets == state).sum(axis=0)
            np.testing.assert_allclose((part.targets == state).sum(axis=0), whole * share, atol=4)
    assert made.notes[-1].startswith("test and validation made by iterative stratification")


def test_rare_labels_are_as_many_in_each_split() -> None:
    """Labels whose share of a split is less than one image are there as often as elsewhere.

    Rounded, the share of each would be none, and of all labels a half would be missing.
    """
    rng = np.random.default_rng(0)
    targets = np.zeros((1000, 400), dtype=np.int8)
    for column in range(1, targets.shape[1]):
        targets[rng.permutation(1000)[:3], column] = 1
    targets[:500, 0] = 1
    images = tuple(as_image(f"im{row}.jpg") for row in range(1000))
    labels = LabelSpace(tuple(f"label{column}" for column in range(400)))
    made = split_manifest(Manifest(images, targets, labels, None, "made"), seed=0)
    for split in Split:
        part = made.part(split).targets
        rare = part[:, 1:].sum(axis=1)
        assert rare.mean() == pytest.approx(1.197, abs=0.04)
        assert part[:, 0].mean() == pytest.approx(0.5, abs=0.02)


def test_same_seed_same_splits() -> None:
    """The seed alone decides, and another one gives another division."""
    manifest = make_manifest(200)
    first = split_manifest(manifest, seed=5).splits
    np.random.seed(99)  # the global state must not matter
    assert split_manifest(manifest, seed=5).splits == first
    assert split_manifest(manifest, seed=6).splits != first


def test_a_single_label_is_split_too() -> None:
    """One label, or none present at all, is no special case."""
    made = split_manifest(make_manifest(100, 1), seed=0)
    assert min(sizes(made).values()) > 0
    empty = Manifest(
        make_manifest(50).images, np.zeros((50, 2), np.int8), LabelSpace(("a", "b")), None, "made"
    )
    assert sizes(split_manifest(empty, seed=0)) == {"train": 35, "validation": 5, "test": 10}


def test_validation_is_taken_out_of_train() -> None:
    """With train and test but no validation, only train gives images away."""
    given = (Split.TEST,) * 40 + (Split.TRAIN,) * 60
    made = split_manifest(make_manifest(100, splits=given), seed=0)
    assert made.splits is not None
    assert made.splits[:40] == given[:40]
    assert sizes(made)[Split.TEST] == 40
    assert 4 <= sizes(made)[Split.VALIDATION] <= 8


@pytest.mark.parametrize(
    "given",
    [(Split.TRAIN, Split.VALIDATION), (Split.TEST, Split.TEST)],
    ids=["complete", "nothing to train on"],
)
def test_given_splits_are_kept(given: tuple[Split, ...]) -> None:
    """Where there is a validation set, or no training set, nothing is changed or noted."""
    manifest = make_manifest(2, splits=given)
    made = split_manifest(manifest, seed=0)
    assert made.splits == given
    assert made.notes == ()


def test_rows_of_one_image_stay_together() -> None:
    """Two rows that show one file, under two spellings, are never in two splits."""
    manifest = make_manifest(100)
    double = Manifest(
        images=manifest.images + tuple(as_image(f"x/../{image}") for image in manifest.images),
        targets=np.concatenate([manifest.targets, manifest.targets[::-1]]),
        labels=manifest.labels,
        splits=None,
        name="made",
    )
    made = split_manifest(double, seed=0)
    assert made.splits is not None
    assert made.splits[:100] == made.splits[100:]
    assert len(sizes(made)) == 3


def test_an_image_in_two_given_splits_is_an_error() -> None:
    """Data that leak between splits are refused, with the name of the image."""
    manifest = make_manifest(2, splits=(Split.TRAIN, Split.TEST))
    leaking = Manifest(
        (as_image("a.jpg"), as_image("x/../a.jpg")),
        manifest.targets,
        manifest.labels,
        manifest.splits,
        "made",
    )
    with pytest.raises(DataError, match=r"a\.jpg is in the splits test and train; keep it in one"):
        split_manifest(leaking, seed=0)


@pytest.mark.parametrize("num_images", [1, 2, 5, 9])
def test_too_few_images_say_how_many_are_needed(num_images: int) -> None:
    """A handful of images cannot be divided, and the message gives the number that can."""
    with pytest.raises(
        DataError, match=f"made: {num_images} images? (is|are) too few .* at least 10 are"
    ):
        split_manifest(make_manifest(num_images), seed=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("num_images", "shares"), [(10, (0.1, 0.2)), (3, (0.45, 0.45))])
def test_as_few_as_needed_are_enough(
    num_images: int, shares: tuple[float, float], seed: int
) -> None:
    """With just the number that the message asks for no split is empty."""
    manifest = make_manifest(num_images, seed=seed)
    made = split_manifest(manifest, seed=seed, validation=shares[0], test=shares[1])
    assert len(sizes(made)) == 3


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.5, 0.5), (1.0, 0.0), (0.1, 1.2)])
def test_shares_out_of_range(validation: float, test: float) -> None:
    """Shares that are none, or leave nothing to train on, are refused."""
    with pytest.raises(SettingsError, match="expected both in"):
        split_manifest(make_manifest(20), seed=0, validation=validation, test=test)


def test_a_share_of_nothing_makes_no_split() -> None:
    """A share of 0 leaves that split out, and two of them put all in train."""
    assert set(sizes(split_manifest(make_manifest(20), seed=0, test=0))) == {"train", "validation"}
    assert set(sizes(split_manifest(make_manifest(2), seed=0, test=0, validation=0))) == {"train"}
