"""MIRFLICKR folders: label sets, splits, repairs; made-up ones, and the real annotations."""

import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions
from mlcrf.data.readers.mirflickr import is_mirflickr, read_mirflickr
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.labels import LabelSpace

SHARED = Path(__file__).parents[4] / "shared" / "mirflickr25k"
ANNOTATIONS = SHARED / "mirflickr25k_annotations_v080.zip"
LITTLE = {"sea": [2, 10], "sea_r1": [2, 3], "sky": [1, 2, 10, 24_999], "dog": []}


def make_folder(
    root: Path,
    numbers: list[int],
    annotations: dict[str, list[int]],
    *,
    pictures: str = "mirflickr",
    texts: str = "annotations",
) -> Path:
    (root / pictures).mkdir(parents=True, exist_ok=True)
    (root / texts).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (root / pictures / f"im{number}.jpg").touch()
    for name, named in annotations.items():
        text = "".join(f"{number}\r\n" for number in named)
        (root / texts / f"{name}.txt").write_bytes(text.encode())
    (root / texts / "README.txt").write_text("25000 images")
    return root


@pytest.mark.parametrize(
    ("label_set", "names", "targets"),
    [
        (24, ("dog", "sea", "sky"), [[0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 1, 1]]),
        (14, ("sea_r1",), [[0], [1], [1], [0]]),
        (
            38,
            ("dog", "sea", "sea_r1", "sky"),
            [[0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 0, 1]],
        ),
    ],
)
def test_label_sets(
    tmp_path: Path, label_set: int, names: tuple[str, ...], targets: list[list[int]]
) -> None:
    """24 are the files without _r1, 14 those with it, 38 both; images come by number."""
    make_folder(tmp_path, [10, 3, 1, 2], LITTLE)
    manifest = read_mirflickr(tmp_path, ReadOptions(label_set=label_set))
    assert [image.file_name for image in manifest.images] == [
        "im1.jpg",
        "im2.jpg",
        "im3.jpg",
        "im10.jpg",
    ]
    assert manifest.labels.names == names
    assert manifest.targets.tolist() == targets
    assert manifest.name == f"mirflickr25k-{label_set}"
    assert f"{len(names)} of {label_set} labels are here" in manifest.notes


def test_relevant_without_potential_is_repaired_upward(tmp_path: Path) -> None:
    """With 38 labels x_r1 sets x, and the notes count the images; 24 labels leave it be."""
    make_folder(tmp_path, [1, 2, 3], LITTLE)
    both = read_mirflickr(tmp_path, ReadOptions(label_set=38))
    assert "1 image has sea_r1 without sea: sea was set" in both.notes
    column = both.labels.index("sea")
    assert both.targets[:, column].tolist() == [0, 1, 1]
    assert both.rules.names(both.labels) == (("sea_r1", "sea"),)
    potential = read_mirflickr(tmp_path, ReadOptions(label_set=24))
    assert not len(potential.rules)
    assert potential.targets[:, potential.labels.index("sea")].tolist() == [0, 1, 0]
    assert not any("was set" in note for note in potential.notes)


def test_numbers_without_picture_are_counted(tmp_path: Path) -> None:
    """The release names images that the folder may lack: a note, not an error."""
    make_folder(tmp_path, [1, 2, 3], LITTLE)
    notes = read_mirflickr(tmp_path).notes
    assert "2 annotated images are not here and are left out" in notes  # 10 and 24,999


@pytest.mark.parametrize(
    ("pictures", "texts"),
    [
        ("mirflickr", "annotations"),
        ("mirflickr", "mirflickr25k_annotations_v080"),
        ("mirflickr", "."),
        ("mirflickr", "mirflickr"),
        (".", "annotations"),
        (".", "."),
    ],
)
def test_known_places(tmp_path: Path, pictures: str, texts: str) -> None:
    """Pictures and annotations may lie where the download, the release or a user puts them."""
    make_folder(tmp_path, [1, 2], LITTLE, pictures=pictures, texts=texts)
    assert is_mirflickr(tmp_path)
    assert read_mirflickr(tmp_path).targets.tolist() == [[0, 0, 1], [0, 1, 1]]


def test_the_releases_own_folders_are_no_annotations(tmp_path: Path) -> None:
    """The tags and documents that come with the release are not taken for labels."""
    make_folder(tmp_path, [1, 2], LITTLE)
    tags = tmp_path / "mirflickr" / "meta" / "tags"
    tags.mkdir(parents=True)
    (tags / "tags1.txt").write_text("5\n")
    assert read_mirflickr(tmp_path).labels.names == ("dog", "sea", "sky")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ([], {9_000: "train", 9_001: "validation", 10_000: "validation"}),
        ([20_001, 25_000], {9_001: "train", 10_000: "train", 20_001: "validation"}),
    ],
)
def test_splits(tmp_path: Path, extra: list[int], expected: dict[int, str]) -> None:
    """Validation is im20001-im25000 where any is here, else the last thousand of training."""
    numbers = [1, 9_000, 9_001, 10_000, 10_001, 20_000, *extra]
    make_folder(tmp_path, numbers, LITTLE)
    manifest = read_mirflickr(tmp_path)
    assert manifest.splits is not None
    found = dict(zip(numbers, manifest.splits, strict=True))
    always = {1: "train", 10_001: "test", 20_000: "test"}
    assert {number: found[number].value for number in always | expected} == always | expected


def test_lines_that_are_no_number_are_all_told(tmp_path: Path) -> None:
    """Every faulty line of every annotation file is named, with its line."""
    make_folder(tmp_path, [1, 2], LITTLE)
    (tmp_path / "annotations" / "sea.txt").write_bytes(b"1\r\ntwo\r\n\r\n0\r\n25001\r\n")
    (tmp_path / "annotations" / "sky.txt").write_bytes(b"-3\n")
    with pytest.raises(DataError) as caught:
        read_mirflickr(tmp_path)
    told = str(caught.value).replace(f"{tmp_path}/annotations/", "").splitlines()
    assert told == [
        "sea.txt:2: 'two' is not an image number; expected 1 to 25000",
        "sea.txt:4: '0' is not an image number; expected 1 to 25000",
        "sea.txt:5: '25001' is not an image number; expected 1 to 25000",
        "sky.txt:1: '-3' is not an image number; expected 1 to 25000",
    ]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """No pictures, no annotations, no file of the label set, no such set: one line each."""
    with pytest.raises(DataError, match=r"has no image such as mirflickr/im1\.jpg"):
        read_mirflickr(tmp_path)
    make_folder(tmp_path, [1], {})
    with pytest.raises(DataError, match=r"no annotation files such as annotations/sky\.txt"):
        read_mirflickr(tmp_path)
    make_folder(tmp_path, [1], {"sea": [1]})
    with pytest.raises(DataError, match="no annotation file of label set 14"):
        read_mirflickr(tmp_path, ReadOptions(label_set=14))
    with pytest.raises(SettingsError, match="no MIRFLICKR label set 25; choose 24, 14 or 38"):
        read_mirflickr(tmp_path, ReadOptions(label_set=25))


def test_expected_labels_in_any_order(tmp_path: Path) -> None:
    """Labels are matched by name; others than expected are an error that names them."""
    make_folder(tmp_path, [1, 2], LITTLE)
    manifest = read_mirflickr(tmp_path, ReadOptions(labels=LabelSpace(("sky", "dog", "sea"))))
    assert manifest.targets.tolist() == [[1, 0, 0], [1, 0, 1]]
    with pytest.raises(LabelsError, match="missing 'cat'; not expected 'dog', 'sea'"):
        read_mirflickr(tmp_path, ReadOptions(labels=LabelSpace(("sky", "cat"))))


@pytest.mark.skipif(
    not ANNOTATIONS.is_file(), reason="the real annotations are not on this machine"
)
@pytest.mark.parametrize("label_set", [24, 14, 38])
def test_real_annotations(tmp_path: Path, label_set: int) -> None:
    """Counts a label, empty sets, splits and repairs of the release, as its own files say."""
    with zipfile.ZipFile(ANNOTATIONS) as archive:
        archive.extractall(tmp_path / "annotations")
        named = {
            Path(entry).stem: {int(word) for word in archive.read(entry).split()}
            for entry in archive.namelist()
            if "README" not in entry
        }
    (tmp_path / "mirflickr").mkdir()
    for number in range(1, 20_001):
        (tmp_path / "mirflickr" / f"im{number}.jpg").touch()
    broken = {
        name: named[name] - named[name[:-3]]
        for name in named
        if name.endswith("_r1") and named[name] - named[name[:-3]]
    }
    assert broken, "the release has slips to repair"
    wanted = {24: lambda name: "_r1" not in name, 14: lambda name: "_r1" in name}
    chosen = sorted(filter(wanted.get(label_set, lambda name: True), named))

    manifest = read_mirflickr(tmp_path, ReadOptions(label_set=label_set))
    assert len(manifest) == 20_000
    assert manifest.labels.names == tuple(chosen)
    assert len(manifest.labels) == label_set
    truth = dict(named)
    if label_set == 38:
        truth |= {name[:-3]: truth[name[:-3]] | slips for name, slips in broken.items()}
    for column, name in enumerate(chosen):
        numbers = np.flatnonzero(manifest.targets[:, column] == 1) + 1
        assert set(numbers.tolist()) == truth[name], name
    empty = int((manifest.targets == 0).all(axis=1).sum())
    assert empty == 20_000 - len(set(chain.from_iterable(truth[name] for name in chosen))) > 0
    assert manifest.notes == tuple(
        f"{len(slips)} images have {name} without {name[:-3]}: {name[:-3]} was set"
        for name, slips in broken.items()
        if label_set == 38
    )
    assert manifest.splits is not None
    sizes = {split: manifest.splits.count(split) for split in Split}
    assert sizes == {Split.TRAIN: 9_000, Split.VALIDATION: 1_000, Split.TEST: 10_000}
