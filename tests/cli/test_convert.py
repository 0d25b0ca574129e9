"""`mlcrf convert`: parts and tables in other forms, and the spellings that it has replaced."""

from pathlib import Path

import pandas as pd
import pytest

from mlcrf.errors import MlcrfError
from tests.cli.test_tag import photos, predict, run_command

__all__ = ["photos"]


def test_parts_and_their_merging(run: Path, photos: Path, tmp_path: Path) -> None:
    """As the whole would be; a part that is finished is not made again."""
    (photos / "broken.jpg").write_bytes(b"no picture")
    whole, merged, parts = tmp_path / "whole.csv", tmp_path / "merged.csv", tmp_path / "parts"
    words = [photos, "--model", run, "--threshold", 0.05]
    assert predict(*words, "--out", whole).exit_code == 0
    for number in (1, 2, 3):
        done = predict(*words, "--shard", f"{number}/3", "--out", parts)
        assert done.exit_code == 0, done.output
    again = predict(*words, "--shard", "2/3", "--out", parts)
    assert again.stdout == f"nothing to do: {parts}/part-00002-of-00003.parquet is finished\n"
    done = run_command("convert", parts, "--out", merged)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"4 photos tagged: {merged}; 1 with errors")
    pd.testing.assert_frame_equal(pd.read_csv(whole), pd.read_csv(merged), rtol=0, atol=1e-5)
    errors = [path.with_suffix(".errors.csv").read_text() for path in (whole, merged)]
    assert errors[0] == errors[1] and "broken.jpg" in errors[0]
    other = predict(photos, "--model", run, "--shard", "2/3", "--out", parts)
    assert isinstance(other.exception, MlcrfError)
    assert "was made with another decoder" in str(other.exception)
    strict = run_command("convert", parts, "--out", merged, "--strict")
    assert isinstance(strict.exception, MlcrfError) and "exists already" in str(strict.exception)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_through_text_and_back(
    run: Path, photos: Path, tmp_path: Path, ending: str
) -> None:
    """From Parquet the same bytes as from the model; back from text the printed digits."""
    direct, kept, again = (tmp_path / name for name in (f"a.{ending}", "b.parquet", f"c.{ending}"))
    for out in (direct, kept):
        assert predict(photos, "--model", run, "--out", out).exit_code == 0
    assert run_command("convert", kept, "--out", again).exit_code == 0
    assert again.read_bytes() == direct.read_bytes()
    tidy, wide = tmp_path / f"tidy.{ending}", tmp_path / f"wide.{ending}"
    assert run_command("convert", direct, "--out", tidy, "--tidy").exit_code == 0
    assert run_command("convert", tidy, "--out", wide).exit_code == 0
    assert wide.read_bytes() == direct.read_bytes()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["predict", "a", "--xmp"], "predict --xmp was moved: use `mlcrf tag IMAGES --xmp`"),
        (["predict", "a", "--undo"], "predict --undo was moved: use `mlcrf tag IMAGES --undo`"),
        (
            ["predict", "a", "--out", "b", "--for=fiftyone"],
            "--for was moved: use `mlcrf convert TABLE",
        ),
        (
            ["predict", "a", "--out", "b.csv", "--tidy"],
            "--tidy was moved: use `mlcrf convert TABLE",
        ),
        (
            ["merge", "a", "--out", "b.csv"],
            "`mlcrf merge` was replaced by `mlcrf convert FOLDER --out FILE`",
        ),
    ],
)
def test_old_spellings_name_the_new_one(words: list[str], says: str) -> None:
    """In one line, with status 2; no help lists them."""
    result = run_command(*words)
    assert result.exit_code == 2
    assert says in result.stderr and result.stderr.count("\n") == 1
    assert "\n  merge" not in run_command("--help").stdout
