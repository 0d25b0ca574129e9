"""`mlcrf features`: one row an image, or a reported error, and labels where there are any."""

from pathlib import Path

import pandas as pd
from PIL import Image as Picture

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
