"""Parts of an archive: every picture in one of them, and together the table of them all."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlcrf.errors import DataError, SettingsError
from mlcrf.images import as_image
from mlcrf.images.containers import members
from mlcrf.labels import LabelSpace
from mlcrf.prediction import (
    KnownLabels,
    Origin,
    Part,
    PartFormat,
    Parts,
    Prediction,
    PredictionWriter,
    PredictJob,
    Table,
)
from mlcrf.prediction.known import KnownSource
from mlcrf.rules import Rules
from tests.data.readers.test_parquet_images import make_parquet

LABELS = LabelSpace(("sea", '<b> "x"', "naïve"))
JOB = PredictJob("abc")
ORIGIN = Origin("model", "abc", Rules(((0, 2),)))
ODD = [b"a\nb.jpg", b"=1+1 &'\".jpg", b"caf\xe9.jpg", b"caf\\xe9.jpg", "ü +%20.jpg".encode()]


def said() -> list[Prediction]:
    """Of pictures with odd names, one that failed, and one whose sidecar did."""
    names = [os.fsdecode(one) for one in [*ODD, *(b"p%d.jpg" % at for at in range(40))]]
    tagged = [
        Prediction(
            as_image(f"photos/{name}"), ("sea",), (0.75, at / 64, 0.5), (0.5,) * 3, listed=at
        )
        for at, name in enumerate(names)
    ]
    failed = Prediction(as_image("photos/x.jpg"), error="x.jpg: broken", listed=len(tagged))
    return [*tagged, failed]


def write(folder: Path, of: int, job: PredictJob = JOB) -> None:
    for number in range(1, of + 1):
        part = Part(number, of)
        output = PartFormat(part, job, ORIGIN)
        has = part.chooser([Path("photos")], of_folders=False)
        with PredictionWriter(part.path(folder), LABELS, output=output) as writer:
            for one in said():
                if has(one.image):
                    writer.write(one)


@pytest.mark.parametrize("tidy", [False, True])
@pytest.mark.parametrize("of", [1, 3, 100])
def test_together_they_are_the_table(tmp_path: Path, of: int, *, tidy: bool) -> None:
    """Row by row and error by error, in the order of the listing; some of 100 parts are empty."""
    write(tmp_path / "parts", of)
    parts = Parts(tmp_path / "parts")
    assert len(parts) == len(said()) and parts.labels == LABELS and parts.origin == ORIGIN
    for name, predictions in (("whole", said()), ("merged", parts)):
        path = tmp_path / f"{name}.csv"
        with PredictionWriter(path, LABELS, output=Table(tidy=tidy)) as writer:
            for one in predictions:
                writer.write(one)
    for ending in ("csv", "errors.csv"):
        whole, merged = (tmp_path / f"{name}.{ending}" for name in ("whole", "merged"))
        assert whole.read_bytes() == merged.read_bytes()


def test_a_part_is_a_table_by_itself(tmp_path: Path) -> None:
    """With the errors as rows of their own."""
    write(tmp_path, 1)
    rows = pd.read_parquet(tmp_path)
    assert list(rows.columns[:3]) == ["image", "labels", "p:sea"]
    assert rows["error"].dropna().tolist() == ["x.jpg: broken"]
    assert rows["p:sea"].isna().sum() == 1
    assert list(tmp_path.iterdir()) == [Part(1, 1).path(tmp_path)]


def test_which_part_depends_on_the_name_alone(tmp_path: Path) -> None:
    """Below the folder that is named, wherever that is; about as many in each."""
    places = [tmp_path / "here", tmp_path / "there"]
    counts = [0] * 8
    for at in range(4000):
        found = []
        for place in places:
            place.mkdir(exist_ok=True)
            photo = as_image(place / f"{at % 50}" / f"{at}.jpg")
            has = [Part(k, 8).chooser([place], of_folders=False)(photo) for k in range(1, 9)]
            assert sum(has) == 1
            found.append(has.index(True))
        assert found[0] == found[1]
        counts[found[0]] += 1
    assert min(counts) > 400 and max(counts) < 600
    together = Part(3, 8).chooser(places, of_folders=True)
    for folder in range(50):
        album = [as_image(places[0] / f"{folder}" / f"{at}.jpg") for at in range(9)]
        assert len(set(map(together, album))) == 1


def test_rows_of_a_row_group_are_in_one_part(tmp_path: Path) -> None:
    """Wherever the file is; of a large row group 256 of them; each row in one part."""
    rows = [{"image": b"x"} for _ in range(1200)]
    parts = []
    for place in ("here", "there"):
        path = make_parquet(tmp_path / place / "x.parquet", rows, row_group_size=600)
        has = [Part(k, 8).chooser([path], of_folders=False) for k in range(1, 9)]
        found = [[one(picture) for one in has] for picture in members(path)]
        assert all(sum(one) == 1 for one in found)
        parts.append([one.index(True) for one in found])
    assert parts[0] == parts[1]
    for first, last in ((0, 256), (256, 512), (512, 600), (600, 856), (856, 1112), (1112, 1200)):
        assert len(set(parts[0][first:last])) == 1
    assert len(set(parts[0])) > 1
    stray = tmp_path / "here" / "x.parquet" / "none.jpg"
    assert sum(one(as_image(stray)) for one in has) == 1


@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "4/3", "1/0", "a/3", "1/3/5", "-1/3", "\u0661/\u0663"]
)
def test_what_is_no_part(text: str) -> None:
    """Named with what was expected."""
    with pytest.raises(SettingsError, match="expected K/N with K from 1 to N"):
        Part.parse(text)


def known(**source: object) -> KnownLabels:
    return KnownLabels(np.array([]), source=KnownSource(**source))  # type: ignore[arg-type]


OTHERS = [
    (replace(JOB, run="abd"), "run: abc, now abd"),
    (replace(JOB, limit=3), "limit: None, now 3"),
    (replace(JOB, rename=(("sea", "Meer"),)), "rename: .*, now .*Meer.*"),
    (replace(JOB, known=known(given="sea=1")), "given: None, now sea=1"),
    (replace(JOB, known=known(image_root="here")), "image-root: None, now here"),
    (replace(JOB, known=known(label_sep="|")), "label-sep: None, now [|]"),
    (replace(JOB, known=known(sidecar_dir="there")), "sidecar-dir: None, now there"),
]


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    """Missing, damaged, of another number, run or label: one line that names the file."""
    assert Part.parse("3/64") == Part(3, 64)
    write(tmp_path, 3)
    one, two, three = (Part(number, 3).path(tmp_path) for number in (1, 2, 3))
    form = PartFormat(Part(2, 3), JOB)
    assert form.is_finished(two)
    for job, says in OTHERS:
        other = replace(form, job=job)
        assert not other.is_finished(two)
        with pytest.raises(DataError, match=rf"was made with another {says}; choose another --out"):
            other.require_same_job(two)
    assert not replace(form, images="0" * 64).is_finished(two)
    kept = two.read_bytes()
    for damaged in (b"", kept[:200], kept[:-9]):
        two.write_bytes(damaged)
        for refused in (lambda: Parts(tmp_path), lambda: form.is_finished(two)):
            with pytest.raises(
                DataError, match=r"part-00002-of-00003.*damaged, or not .*; delete it"
            ):
                refused()
    two.unlink()
    assert not form.is_finished(two)
    with pytest.raises(DataError, match=r"1 of 3 parts are missing: 2; `mlcrf predict --shard`"):
        Parts(tmp_path)
    write(tmp_path / "other", 3, replace(JOB, album=True))
    Part(2, 3).path(tmp_path / "other").rename(two)
    with pytest.raises(DataError, match="made with other run or options"):
        Parts(tmp_path)
    write(tmp_path / "four", 4)
    two.unlink()
    Part(2, 4).path(tmp_path / "four").rename(tmp_path / "part-00002-of-00004.parquet")
    with pytest.raises(DataError, match=r"is one of 4 parts, part-00001-of-00003\S* one of 3"):
        Parts(tmp_path)
    for place, match in ((tmp_path / "none", "No such file"), (one, "Not a directory")):
        with pytest.raises(DataError, match=match):
            Parts(place)
    three.unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no part-"):
        Parts(tmp_path / "empty")


def test_damage_within_a_part(tmp_path: Path) -> None:
    """Found when the rows are read; nothing of it becomes a table."""
    write(tmp_path, 1)
    path = Part(1, 1).path(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"part-00001-of-00001.parquet: damaged (?s:.*); delete"):
        list(Parts(tmp_path))
