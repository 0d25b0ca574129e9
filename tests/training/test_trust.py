"""Hints of other sources: the weights that are learned, and the tables that they come from."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from mlcrf.checkpoint import load_run
from mlcrf.data.hint_tables import (
    describe_copies,
    parse_hints,
    read_hints,
    require_other_table,
)
from mlcrf.data.manifest import Manifest
from mlcrf.errors import MlcrfError
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.prediction.hinting import match_sources, weigh_hints
from mlcrf.shipped_models import DEFAULT
from mlcrf.training.trust import _weights


def test_weights_are_the_log_likelihood_ratios_of_independent_sources() -> None:
    """Of a good and of a useless source; a label of few examples has about those of all."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(20000, 3, generator=generator, dtype=torch.float64)
    present = torch.rand(20000, 3, generator=generator) < scores.sigmoid()
    named = torch.rand(20000, 3, generator=generator) < torch.where(present, 0.6, 0.1)
    noise = torch.rand(20000, 3, generator=generator) < 0.5
    said = {"good": named.numpy().astype(np.int8), "noise": noise.numpy().astype(np.int8)}
    targets = present.long()
    targets[20:, 2] = -1
    weights = _weights(scores, targets, said)
    ratios = torch.tensor([math.log(0.6 / 0.1), math.log(0.4 / 0.9)], dtype=torch.float64)
    # only sums over sources are determined: one of each pair of columns is always named or not
    for good in (0, 1):
        sums = weights[:, good, None] + weights[:, 2:]
        assert torch.allclose(sums[:2], ratios[good].expand(2, 2), atol=0.15)
        assert torch.allclose(sums[2], ratios[good].expand(2), atol=1)


def test_tables_of_hints(tmp_path: Path) -> None:
    """Labels that the run does not know are left out; what is not spoken of adds nothing."""
    for number in (1, 2):
        Picture.new("RGB", (8, 8)).save(tmp_path / f"im{number}.jpg")
    table = tmp_path / "tags.csv"
    table.write_text("image,labels\nim1.jpg,sea;boat\nim2.jpg,boat\n")
    tables = parse_hints([f"flickr={table}"])
    labels = LabelSpace(("sky", "sea"))
    rows = read_hints(tables, labels)["flickr"]
    assert [row.tolist() for row in rows.values()] == [[-1, 1], [-1, 0]]
    assert list(parse_hints([str(table)])) == ["tags"]

    base = load_run(Path(DEFAULT))
    trust = {"sky": (9.0, 9.0), "sea": (2.0, -0.5)}
    run = replace(base, labels=labels, hints={"flickr": trust})
    evidence = weigh_hints(run, {"flickr": rows}, tables)
    images = [as_image(tmp_path / name) for name in ("im2.jpg", "im1.jpg", "im3.jpg")]
    assert evidence.of(images).tolist() == [[0, -0.5], [0, 2], [0, 0]]
    assert match_sources(run, {"new": table}) == {"flickr": table}
    with pytest.raises(MlcrfError, match="was trained without --hints"):
        match_sources(base, tables)
    both = replace(run, hints={"flickr": trust, "robot": trust})
    with pytest.raises(MlcrfError, match="trained with hints of flickr, robot, not of 'tags'"):
        match_sources(both, {"tags": table})


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["flickr="], "--hints flickr=: expected TABLE or NAME=TABLE"),
        (["a/tags.csv", "b/tags.csv"], "source 'tags' is given twice; name them apart"),
    ],
)
def test_wrong_hints(texts: list[str], says: str) -> None:
    with pytest.raises(MlcrfError, match=says):
        parse_hints(texts)


def test_a_table_without_any_of_the_labels(tmp_path: Path) -> None:
    Picture.new("RGB", (8, 8)).save(tmp_path / "im1.jpg")
    table = tmp_path / "tags.csv"
    table.write_text("image,boat\nim1.jpg,1\n")
    with pytest.raises(MlcrfError, match=r"tags.csv: has none of the labels sky, sea; check"):
        read_hints({"tags": table}, LabelSpace(("sky", "sea")))


def test_hints_that_are_the_data(tmp_path: Path) -> None:
    """By whatever path; another table, and one that is not there, are no matter of this."""
    data, other = tmp_path / "tags.csv", tmp_path / "other.csv"
    data.write_text("image,labels\n")
    other.write_text("image,labels\n")
    link = tmp_path / "link.csv"
    link.symlink_to(data)
    for same in (data, link):
        with pytest.raises(MlcrfError, match=f"{same.name}: is DATA itself"):
            require_other_table(parse_hints([str(other), f"x={same}"]), [tmp_path, data])
    require_other_table(parse_hints([str(other), f"x={tmp_path}/none.csv"]), [data])


def test_hints_that_never_contradict_the_annotations() -> None:
    """A copy is noted; one contradiction, or nothing named, shows that it is none."""
    images = tuple(as_image(f"{number}.jpg") for number in range(3))
    targets = np.array([[1, 0], [0, -1], [1, 1]], dtype=np.int8)
    manifest = Manifest(images, targets, LabelSpace(("sky", "sea")), None, "data")

    def notes(rows: list[list[int]]) -> list[str]:
        said = zip((image.key for image in images), np.array(rows, dtype=np.int8), strict=False)
        return describe_copies({"web": dict(said)}, manifest)

    [note] = notes([[1, 0], [-1, 1]])
    assert note.startswith("hints of 'web' agree with the annotations wherever both speak")
    assert "(2 times)" in note
    assert notes([[1, 0], [1, 1]]) == []
    assert notes([[-1, 0], [0, 1]]) == []
    assert notes([[-1, -1], [-1, 1]]) == []
