"""Matrices of safetensors and of LibSVM, and lists of numbers in Parquet, as data sets."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from mlcrf.choices import Oddity
from mlcrf.data.joining import read_datasets
from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.errors import DataError

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
Y = (X[:, :2] > 0).astype(np.float32)


def texts(*words: str) -> str:
    return json.dumps(words)


def test_safetensors(tmp_path: Path) -> None:
    """Two tensors are a data set; names, ids and splits are in the metadata."""
    path = tmp_path / "data.safetensors"
    targets = Y.copy()
    targets[0] = np.nan, -1
    save_file({"features": X, "targets": targets}, path)
    data = read_dataset(path)
    assert np.array_equal(data.features, X)
    assert data.targets[0].tolist() == [-1, -1]
    assert np.array_equal(data.targets[1:], Y[1:])
    assert data.feature_names == ("features[0]", "features[1]", "features[2]")
    assert list(data.labels) == ["label 1", "label 2"]
    names = {"label_names": texts("sea", "sky"), "feature_names": texts("a", "b", "c")}
    names |= {"ids": texts(*"abcdefghijkl"), "splits": texts(*["train", "test"] * 6)}
    save_file({"features": X.astype(np.float16), "labels": Y.astype(np.int8)}, path, names)
    data = read_dataset(path, ReadOptions(run_features=("c", "a")))
    assert np.array_equal(data.features, X.astype(np.float16)[:, [2, 0]])
    assert [image.name for image in data.part(Split.TEST).images] == list("bdfhjl")


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"weight": X}, {}, r"has no tensor `features` \(N, D\); found weight \(12, 3\)"),
        ({"features": X[0]}, {}, "has no tensor `features`"),
        (
            {"features": X, "labels": Y, "targets": 1 - Y},
            {},
            "labels and targets; keep one",
        ),
        ({"features": X, "labels": Y[1:]}, {}, "a row for each of the 12 rows"),
        ({"features": X, "labels": Y}, {"label_names": texts("sea")}, "has 1 texts, expected 2"),
        ({"features": X, "labels": Y}, {"label_names": "sea"}, "expected a JSON list of texts"),
        ({"features": X, "labels": Y + 0.5}, {}, "holds numbers such as"),
        ({"features": X * np.inf, "labels": Y}, {}, "12 of 12 rows"),
        ({"features": X}, {}, "has no label column; found features only.*a tensor `labels`"),
    ],
)
def test_tensors_that_do_not_fit(
    tensors: dict[str, np.ndarray], metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match=message):
        read_dataset(path)


def test_files_of_numpy_are_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(DataError, match="is not opened; save it in Python by safetensors"):
        read_dataset(tmp_path / "x.npy")


def test_svmlight(tmp_path: Path) -> None:
    """Labels and features are named by their numbers; what a test file leaves out is 0."""
    path = tmp_path / "data.svm"
    path.write_text("# comment\n1,3 1:0.5 4:-1e-1 # end\n\n3 2:1\n 1:2\n")
    data = read_dataset(path)
    assert list(data.labels) == ["1", "3"]
    assert data.targets.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert data.feature_names == tuple(f"features[{at}]" for at in (1, 2, 3, 4))
    rows = np.array([[0.5, 0, 0, -0.1], [0, 1, 0, 0], [2, 0, 0, 0]], np.float32)
    assert np.array_equal(data.features, rows)
    path.write_text("1 1:3\n3 7:1\n")
    test = read_dataset(path, ReadOptions(run_features=data.feature_names))
    assert test.features is not None
    assert test.features.tolist() == [[3, 0, 0, 0], [0, 0, 0, 0]]
    assert "the run learned without the features 'features[5]'" in test.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1:2\n1.5 1:2\n", ":2: '1.5 1:2'; expected labels and features such as"),
        ("+1 1:2\n-1 1:3\n", ":1: '\\+1 1:2'"),
        ("1 1:2\n-1 1:3\n", "has the label -1, as files of one label"),
        ("1 1:2\n1 2:2 1:2\n", ":2: feature 1 follows 2; expected .* rising order"),
        ("1 qid:3 1:2 1:2\n", ":1: feature 1 follows 1"),
        ("1 1:2 2:x\n", ":1: feature 2 is 'x', expected a number"),
        ("1 1:2 2:1_0\n", ":1: feature 2 is '1_0', expected a number"),
        ("1 1:2\n2 99999999999:1\n", ":2: feature 99999999999 is too large"),
        ("1 1:2\n2 2147483646:1\n", "too many for a dense matrix"),
        ("1 1:2 2:1\n2 1:nan 2:3\n1 1:4 2:2\n", ":2: feature 'features\\[1\\]' is nan"),
        ("", "has no rows"),
    ],
)
def test_lines_that_are_no_svmlight(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.svm"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_dataset(path)
    assert "\n" not in str(error.value)


def test_lists_in_parquet(tmp_path: Path) -> None:
    """The only column of lists of numbers holds the features; faulty lists are told by row."""
    path = tmp_path / "data.parquet"
    frame = pd.DataFrame({"image": [f"{at}.jpg" for at in range(12)], "embedding": list(X)})
    frame[["sea", "sky"]] = Y
    frame.to_parquet(path)
    data = read_dataset(path)
    assert np.array_equal(data.features, X)
    assert data.images[0].name == "0.jpg"
    assert data.facts == ("3 features from column 'embedding'",)
    frame.at[3, "embedding"] = X[3, :2]
    frame.at[4, "embedding"] = None
    frame.at[5, "embedding"] = X[5] * np.nan
    frame.to_parquet(path)
    with pytest.raises(DataError) as error:
        read_dataset(path)
    assert [line.split(": ", 1)[1] for line in str(error.value).splitlines()] == [
        "row 4: feature 'embedding' has 2 numbers, other rows have 3",
        "row 5: feature 'embedding' is 'None', expected 3 numbers",
        "row 6: feature 'embedding[0]' is nan, expected a finite number",
    ]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ("x*,sea", "'sea' is a feature by --features, and a label or a split"),
        ("x*,id", "feature 'id' is 'r0', expected a number .12 of 12 rows."),
        ("x*,copy", "feature 'copy' is label 'sea' in every row, as if the answer were known"),
        ("x*,patient id", "feature 'patient id' numbers the rows"),
        ("x*,order", "feature 'order' numbers the rows"),
        ("x*,country", "feature 'country' is 'DE', expected a number .12 of 12 rows."),
        ("z*", "--features: no column 'z.'; found"),
        ("x0,split", "'split' is a feature by --features, and a label or a split"),
    ],
)
def test_columns_that_are_no_features(features: str, message: str, tmp_path: Path) -> None:
    """A label, its copy, a number of the row or a text are not taken for features in silence."""
    frame = pd.DataFrame(X, columns=["x0", "x1", "x2"]).assign(sea=Y[:, 0], sky=Y[:, 1])
    frame["copy"] = 1 - Y[:, 0]
    frame["patient id"] = 7 * np.arange(12)[::-1] + 3
    frame["order"] = np.arange(12) + 100
    frame["country"], frame["split"] = "DE", "train"
    frame["id"] = [f"r{at}" for at in range(12)]
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = tuple(features.split(","))
    options = ReadOptions(
        features=given, label_columns=("sea", "sky"), split_column="split", max_problems=2
    )
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / "t.csv", options)
    if given[1:] == ("order",):
        accepted = ReadOptions(
            features=given, label_columns=("sea", "sky"), accept=frozenset({Oddity.FEATURES})
        )
        assert read_dataset(tmp_path / "t.csv", accepted).notes[0].startswith("accepted (features)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,sea\n1,1\n2,0\n", r"--features takes every column, and leaves no labels"),
        (
            "x,id,sea\n1,a,1\n2,a,0\n",
            r"3: duplicate row: 'a' .* on line 2 too, with other f[^\n]*$",
        ),
        ("x,id,sea\n1,a,1\n2,,0\n", "3: column 'id' is empty"),
        ("x;sea\n1,5;1\n2;0\n1;0\n", r"2: feature 'x' is '1,5', expected a number \(with a point"),
        ("x,sea\n[],1\n[],0\n", "column 'x' holds empty lists"),
        ("x,sea\n1,1\n1_000,0\n1,0\n", "3: feature 'x' is '1_000', expected a number"),
    ],
)
def test_rows_that_cannot_be_told_apart(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    every = ("x", "sea") if "every" in message else ("x",)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path / "t.csv", ReadOptions(features=every))


def test_what_numbers_of_32_bits_lose_is_told(tmp_path: Path) -> None:
    """Times in seconds, and columns that are the same in every row, are noted; texts are read."""
    frame = pd.DataFrame({"time": 1.7e9 + np.arange(12) ** 2, "same": 3, "sea": Y[:, 0]})
    frame["lists"], frame["night"] = [str([one, 2 * one]) for one in X[:, 0].tolist()], True
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = ReadOptions(features=("time", "same", "lists", "night"))
    data = read_dataset(tmp_path / "t.csv", given)
    assert data.feature_names == ("time", "same", "lists[0]", "lists[1]", "night")
    assert data.notes[0] == "2 features are the same in every row: 'same', 'night'"
    assert "feature 'time' varies by less than 1e-05 of its size" in data.notes[1]


def test_tables_of_numbers_are_joined(tmp_path: Path) -> None:
    """Rows of several tables with the same features are one data set; others are refused."""
    paths = [tmp_path / f"{name}.csv" for name in "abc"]
    frame = pd.DataFrame({"id": [f"r{at}" for at in range(12)], "x": X[:, 0], "sea": Y[:, 0]})
    frame[:8].to_csv(paths[0], index=False)
    frame[6:].to_csv(paths[1], index=False)
    joined = read_datasets(paths[:2], ReadOptions(features=("x",)))
    assert np.array_equal(joined.features, X[:, :1])
    assert joined.feature_names == ("x",)
    frame.assign(x=-frame["x"]).to_csv(paths[1], index=False)
    with pytest.raises(DataError, match="row r0 has other features in another table"):
        read_datasets(paths[:2], ReadOptions(features=("x",)))
    frame.rename(columns={"x": "y"}).to_csv(paths[2], index=False)
    with pytest.raises(DataError, match="have not the same features"):
        read_datasets(paths[1:], ReadOptions(features=("[xy]",)))
