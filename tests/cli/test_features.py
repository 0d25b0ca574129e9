"""`mlcrf features`: one row an image, or a reported error, and labels where there are any."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Picture

from mlcrf import Tagger
from mlcrf.checkpoint import load_run
from mlcrf.choices import EngineName
from mlcrf.inference import Independent
from tests.cli.conftest import Mlcrf


def test_features_of_photos_and_of_data(mlcrf: Mlcrf, tmp_path: Path) -> None:
    """What cannot be read is reported and left out; labels of a table become columns."""
    photos, out = tmp_path / "photos", tmp_path / "features.parquet"
    photos.mkdir()
    for name, grey in (("a", 10), ("b", 200)):
        picture = Picture.new("RGB", (32, 24), (grey, 30, 40))
        picture.paste((250, 250, 250), (0, 0, 12, 9))
        picture.save(photos / f"{name}.png")
    (photos / "c.png").write_bytes(b"no picture")
    (tmp_path / "t.csv").write_text("image,sea\nphotos/a.png,1\nphotos/b.png,\n")
    words = ("--out", out, "--engine", "torch", "--cache-dir", tmp_path / "cache")
    plain = mlcrf("features", photos, *words, "--strict")
    assert plain.returncode == 1
    assert f"error: {photos}/c.png: " in plain.stderr
    assert plain.stdout == f"2 images, 1280 features of lite0, 1 with errors: {out}\n"
    assert list(pd.read_parquet(out).columns) == ["image", "features"]
    again = mlcrf("features", tmp_path / "t.csv", *words)
    assert (again.returncode, again.stderr) == (
        1,
        f"error: {out}: exists already; choose another --out or --overwrite\n",
    )
    both = tmp_path / "both.parquet"
    seen = mlcrf("features", photos, "--out", both, *words[2:], "--views", 2)
    assert seen.stdout == f"2 images, 1280 features of lite0, 2 views, 1 with errors: {both}\n"
    vectors = [list(map(list, pd.read_parquet(path)["features"])) for path in (out, both)]
    assert vectors[0] != vectors[1]  # though the cache holds those of one view
    labelled = mlcrf("features", tmp_path / "t.csv", *words, "--overwrite")
    assert labelled.returncode == 0, labelled.stderr
    frame = pd.read_parquet(out)
    assert frame["image"].tolist() == [f"{photos}/a.png", f"{photos}/b.png"]
    assert frame["sea"][0] == 1
    assert pd.isna(frame["sea"][1])
    assert len(frame["features"][0]) == 1280


def test_features_of_the_network_of_a_run(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """They are those that its heads were fitted on; what has no network of its own is named."""
    images, out = drawn / "images", tmp_path / "features.parquet"
    words = ("--out", out, "--engine", "torch")
    done = mlcrf("features", images, *words, "--model", run, "--limit", 4, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["backbone"], record["views"], record["features"]) == ("tiny", 1, 128)
    frame = pd.read_parquet(out)
    found = torch.tensor([list(one) for one in frame["features"]])
    learned = load_run(run)
    tagger = Tagger(learned, engine=EngineName.TORCH)
    expected = [one.independent for one in tagger.predict(list(frame["image"]))]
    marginals = Independent()(learned.independent(found)).marginals
    assert marginals.detach().numpy() == pytest.approx(np.array(expected), abs=1e-4)
    for option, given in (("backbone", "lite1"), ("weights", "w.safetensors"), ("views", 2)):
        refused = mlcrf(
            "features", images, *words, "--overwrite", "--model", run, f"--{option}", given
        )
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"--model {run} has its own network; leave out --{option}" in refused.stderr
    rows = [f"r{row},{row % 7},{row % 3},{row % 2}" for row in range(40)]
    (tmp_path / "n.csv").write_text("\n".join(["id,x1,x2,odd", *rows]) + "\n")
    numbers = mlcrf("train", tmp_path / "n.csv", "--features", "x*", "--out", tmp_path / "numbers")
    assert numbers.returncode == 0, numbers.stderr
    refused = mlcrf("features", images, *words, "--overwrite", "--model", tmp_path / "numbers")
    assert refused.returncode == 1
    assert "numbers: learned from a table of numbers, and has no network" in refused.stderr
    assert len(pd.read_parquet(out)) == 4
