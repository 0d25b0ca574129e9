"""The commands as a user meets them: subprocesses, exit status, both streams."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlcrf import Tagger
from mlcrf.version import __version__
from tests.cli.conftest import Mlcrf

MEASURES = [
    "nll",
    "hamming",
    "wrong_per_image",
    "subset_accuracy",
    "chosen_accuracy",
    "example_f1",
    "example_jaccard",
    "mean_average_precision",
    "labels_with_positives",
    "micro_f1",
    "macro_f1",
    "calibration_error",
    "set_calibration_error",
    "macro_precision",
    "macro_recall",
    "f1_of_means",
    "micro_precision",
    "micro_recall",
    "example_precision",
    "example_recall",
    "ranking_loss",
    "coverage_error",
    "label_ranking_average_precision",
    "one_error",
]


def test_help_imports_nothing_heavy() -> None:
    """`--help` loads neither torch, pandas nor numpy, which take most of the time of a start."""
    script = (
        "import sys\nsys.argv = ['mlcrf', '--help']\nfrom mlcrf.cli import main\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas', 'numpy', 'pydantic') if name in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"


def test_version(mlcrf: Mlcrf) -> None:
    """`--version` names the version that the package has."""
    assert mlcrf("--version").stdout == f"mlcrf {__version__}\n"


def test_usage_error_is_2(mlcrf: Mlcrf) -> None:
    """A wrong option ends in status 2 and says which."""
    result = mlcrf("train", "--no-such-option")
    assert result.returncode == 2
    assert "--no-such-option" in result.stderr


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("synthetic", ["--mirror", "folder"]),
        ("synthetic", ["--keep-archives"]),
        ("mirflickr25k", ["--seed", "1"]),
    ],
)
def test_download_refuses_options_without_use(
    mlcrf: Mlcrf, tmp_path: Path, name: str, option: list[str]
) -> None:
    """Drawn data have no archives, and fetched data no seed."""
    result = mlcrf("download", name, "--dest", tmp_path / "data", *option)
    assert result.returncode == 2
    assert option[0] in result.stderr and "leave it out" in result.stderr
    assert not (tmp_path / "data").exists()


def test_head_closes_the_pipe_without_traceback(drawn: Path) -> None:
    """A reader that stops early, as head does, gets no traceback."""
    command = f"{sys.executable} -m mlcrf inspect {drawn / 'labels.csv'} | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "240 images" in result.stdout
    assert "Traceback" not in result.stderr


def test_train_leaves_a_whole_run(run: Path) -> None:
    """A run has settings, labels, weights, splits, record, card and picture, and no temporary."""
    there = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {name for name in there if not name.startswith("log/")} == {
        "config.json",
        "labels.txt",
        "best.safetensors",
        "calibration.safetensors",
        "last.safetensors",
        "state.pt",
        "splits.csv",
        "results.csv",
        "metrics.json",
        "README.md",
        "plots/couplings.png",
    }
    assert json.loads((run / "metrics.json").read_text())["images"] == {
        "train": 144,
        "validation": 36,
        "test": 60,
    }


def test_scores_of_training_images_are_not_called_a_test(
    mlcrf: Mlcrf, run: Path, drawn: Path
) -> None:
    """`evaluate` counts the images that the run was trained on, in words and in JSON."""
    words = ("evaluate", run, drawn / "labels.csv", "--resamples", "2", "--split")
    learned = mlcrf(*words, "train")
    assert learned.stdout.startswith("NOT A TEST: 144 of these images were used in training")
    assert json.loads(mlcrf(*words, "all", "--json").stdout)["in_training"] == 180
    assert "NOT A TEST" not in mlcrf(*words, "test").stdout


def test_the_table_that_was_trained_on_without_splits(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """The remedy is the run's own splits, and not all images; of other images it is --split all."""
    frame = pd.read_csv(drawn / "labels.csv").drop(columns="split")
    table = tmp_path / "whole.csv"
    frame.to_csv(table, index=False)
    words = ("--resamples", "2", "--image-root", drawn)
    refused = mlcrf("evaluate", run, table, *words)
    assert refused.returncode == 1
    assert f"was trained on 180 of its 240 images; give {run / 'splits.csv'} in" in refused.stderr
    (tmp_path / "other").mkdir()
    for row in range(2):
        shutil.copy(drawn / frame.image[row], tmp_path / "other" / f"{row}.png")
    frame.assign(image=[f"other/{row}.png" for row in range(len(frame))])[:2].to_csv(
        table, index=False
    )
    assert "or use --split all" in mlcrf("evaluate", run, table).stderr


def test_an_existing_run_is_not_overwritten(mlcrf: Mlcrf, run: Path, drawn: Path) -> None:
    """Training into an existing run is refused and changes nothing."""
    before = (run / "best.safetensors").read_bytes()
    result = mlcrf("train", drawn / "labels.csv", "--out", run)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"error: {run}: exists already; --resume it, --overwrite it")
    assert (run / "best.safetensors").read_bytes() == before


def test_resume_of_a_finished_run_gives_the_same_bits(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """Resuming computes nothing anew: the weights that it writes are the same."""
    before = (run / "best.safetensors").read_bytes()
    result = mlcrf(
        "train",
        drawn / "labels.csv",
        "--out",
        run,
        "--resume",
        "--backbone",
        "tiny",
        "--finetune",
        "all",
        "--epochs",
        2,
        "--engine",
        "torch",
        "--cache-dir",
        tmp_path,
        "--set",
        "penalties=[0.1]",
        "--set",
        "pairwise_penalties=[0.01]",
        *("--set", "structure_weights=[1]", "--set", "schedule=joint"),
    )
    assert result.returncode == 0, result.stderr
    assert "epoch" not in result.stderr
    assert (run / "best.safetensors").read_bytes() == before


def test_resume_with_other_settings_is_refused(mlcrf: Mlcrf, run: Path, drawn: Path) -> None:
    """A resumed run must have the settings that it was begun with."""
    result = mlcrf(
        "train",
        drawn / "labels.csv",
        "--out",
        run,
        "--resume",
        "--backbone",
        "tiny",
        "--finetune",
        "all",
        "--epochs",
        3,
    )
    assert result.returncode == 1
    assert "made with other settings or data" in result.stderr


def test_evaluate_prints_one_json_object(mlcrf: Mlcrf, run: Path, drawn: Path) -> None:
    """`--json` gives both models, every measure, and each difference with its interval."""
    result = mlcrf("evaluate", run, drawn / "labels.csv", "--json", "--resamples", 50)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert set(record["models"]) == {"independent", "crf"}
    for name in MEASURES:
        value, low, high = record["difference"][name]
        ours, theirs = (record["models"][model][name] for model in ("crf", "independent"))
        assert value == pytest.approx(ours - theirs)
        assert low <= high
    assert "split:test|images:60|labels:12" in record["signature"]
    assert record["models"]["crf"]["wrong_per_image"] == pytest.approx(
        12 * record["models"]["crf"]["hamming"]
    )


def test_compare(mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path) -> None:
    """A table, one JSON object, a CSV file, and a section of the report; wrong words are told."""
    copy = shutil.copytree(run, tmp_path / "copy")
    words = (run, copy, "--data", run / "splits.csv", "--resamples", 2)
    result = mlcrf("compare", *words, "--split", "train", "--measures", "OF1", "--limit", 9)
    assert result.returncode == 0, result.stderr
    told = "NOT A TEST of copy: 9 of these images were used in its training"
    assert told in result.stdout and "micro F1, % (OF1)" in result.stdout
    table = tmp_path / "scores.csv"
    result = mlcrf("compare", *words, "--json", "--out", table)
    record = json.loads(result.stdout)
    assert record["reference"] == "run" and list(record["differences"]) == ["copy"]
    assert record["differences"]["copy"]["micro_f1"] == [0, 0, 0]
    rows = [row for row in csv.DictReader(table.open()) if row["symbol"] == "CF1"]
    assert [(row["run"], row["low"]) for row in rows] == [("run", ""), ("copy", "0.0")]
    page = tmp_path / "report.html"
    on = (drawn / "labels.csv", "--resamples", 2, "--images", 0, "--out", page)
    assert mlcrf("report", run, *on, "--compare", copy).returncode == 0
    assert "Other runs</h2>" in page.read_text()
    refused = mlcrf("compare", run, "--data", drawn / "labels.csv")
    assert refused.returncode == 2 and "at least two runs" in refused.stderr
    refused = mlcrf("compare", run, copy, "--data", run)
    assert f"error: {run} is a run; expected a table or folder for --data" in refused.stderr


def test_evaluate_at_k(mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path) -> None:
    """Each image's best labels are measured beside the decision; at most all labels are."""
    words = ("evaluate", run, drawn / "labels.csv", "--resamples", 2, "--at-k")
    result = mlcrf(*words, 5, "--out", tmp_path / "scores.csv")
    assert result.returncode == 0, result.stderr
    assert "at k: each image has exactly its 5 best labels" in result.stdout
    assert "|decision:threshold,map|at-k:5|" in result.stdout
    named = {row["measure"] for row in csv.DictReader((tmp_path / "scores.csv").open())}
    of_means = {"precision_at_k", "recall_at_k", "f1_at_k"}
    at_k = {*of_means, "labels_found_at_k", *(f"micro_{name}" for name in of_means)}
    assert {*MEASURES, *at_k, "average_precision"} == named
    chosen = mlcrf(*words, 3, "--measures", "cp,OF1@3,one_error").stdout.splitlines()[2:5]
    titles = ("mean precision of a label, % (CP)", "micro F1 at k, % (OF1@k)", "one-error, %")
    assert all(map(str.startswith, chosen, titles))
    record = json.loads(mlcrf(*words, 12, "--json").stdout)["models"]["crf"]
    assert (record["recall_at_k"], record["labels_found_at_k"]) == (1, 12)
    rare = ("--decode", "top-k", "--top-k", 3, "--rarity")
    tuned = json.loads(mlcrf(*words, 3, "--json", *rare, "auto").stdout)
    assert "|decision:top-k,k:3,rarity:auto,map|at-k:3|" in tuned["signature"]
    assert any(note.startswith("rarity tuned on validation: ") for note in tuned["notes"])
    tags = [drawn / "images", "--model", run, "--out", tmp_path / "tags.csv", "--limit", 9]
    assert mlcrf("predict", *tags, *rare, 1).returncode == 0
    rows = list(csv.DictReader((tmp_path / "tags.csv").open()))
    assert [len(row["labels"].split(";")) for row in rows] == [3] * 9
    refused = mlcrf(*words, 13)
    assert (refused.returncode, refused.stdout) == (1, "")
    message = f"error: {run}: --at-k 13: expected a number of labels from 1 to 12"
    assert refused.stderr.splitlines()[-1] == message


@pytest.mark.parametrize("inference", ["mean-field", "exact"])
def test_inference_that_does_not_converge_says_so_once(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path, inference: str
) -> None:
    """With what to try, and for how many images; inference that converges says nothing."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["settings"] |= {"inference": inference, "mean_field_sweeps": 1}
    (copy / "config.json").write_text(json.dumps(config))
    scored = mlcrf("evaluate", copy, drawn / "labels.csv", "--json", "--resamples", 2)
    tagged = mlcrf("predict", drawn / "images", "--model", copy, "--out", tmp_path / "out.csv")
    assert (scored.returncode, tagged.returncode) == (0, 0), scored.stderr + tagged.stderr
    record = json.loads(scored.stdout)
    concerned = "inference did not converge for 60 of 60 images" in record["notes"]
    assert (record["unconverged"], concerned) == (
        (1.0, True) if inference == "mean-field" else (0.0, False)
    )
    for result in (scored, tagged):
        said = result.stderr.count("had not converged after 1 sweeps")
        assert said == result.stderr.count("Try --inference exact") == (inference == "mean-field")


def test_evaluate_with_another_inference_says_so(mlcrf: Mlcrf, run: Path, drawn: Path) -> None:
    """Decoding with another inference than the run was trained for is noted."""
    result = mlcrf(
        "evaluate", run, drawn / "labels.csv", "--inference", "mean-field", "--resamples", 2
    )
    assert "trained for exact inference, decoded with mean-field" in result.stderr
    assert "nll of the crf is lower bound" in result.stdout


def test_evaluate_refuses_other_labels(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """Data with other labels than the run's end in one line that names them."""
    table = tmp_path / "other.csv"
    table.write_text(f"image,split,moon\n{drawn / 'images'}/000000.jpg,test,1\n")
    result = mlcrf("evaluate", run, table)
    assert result.returncode == 1
    assert "moon" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four readable pictures, one of them deep, one broken, and a file that is no picture."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name, mode in (("a.jpg", "RGB"), ("b.png", "RGBA"), ("c.gif", "P"), ("deep/d.jpg", "L")):
        Image.new(mode, (40, 30)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predict_gives_each_picture_a_row_or_an_error(
    mlcrf: Mlcrf, run: Path, photos: Path, tmp_path: Path, ending: str
) -> None:
    """Readable pictures have a row with both models' scores, the broken one a reported error."""
    out = tmp_path / f"tags.{ending}"
    result = mlcrf("predict", photos, "--model", run, "--out", out, "--engine", "torch")
    assert result.returncode == 0, result.stderr
    assert "4 photos tagged" in result.stdout
    readers = {"csv": pd.read_csv, "parquet": pd.read_parquet}
    rows = pd.read_json(out, lines=True) if ending == "jsonl" else readers[ending](out)
    assert [Path(name).name for name in rows["image"]] == ["a.jpg", "b.png", "c.gif", "d.jpg"]
    labels = (run / "labels.txt").read_text().split()
    assert list(rows.columns) == [
        "image",
        "labels",
        *(f"{kind}:{name}" for name in labels for kind in ("p", "independent")),
    ]
    assert rows[[f"p:{name}" for name in labels]].stack().between(0, 1).all()
    with (tmp_path / "tags.errors.csv").open(newline="") as stream:
        errors = list(csv.DictReader(stream))
    assert [Path(error["image"]).name for error in errors] == ["broken.jpg"]
    assert "broken.jpg" in result.stderr


def test_predict_keeps_what_is_known(mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path) -> None:
    """Known labels are 0 or 1 in the table, the others move, and mistakes are one line."""
    images = sorted((drawn / "images").iterdir())[:3]
    table = tmp_path / "known.csv"
    table.write_text(f"image,dog,sea\n{images[0]},1,\n{images[1]},,0\n")

    def tags(name: str, *more: object) -> pd.DataFrame:
        out = tmp_path / name
        result = mlcrf("predict", *images, "--model", run, "--out", out, *more)
        assert result.returncode == 0, result.stderr
        return pd.read_csv(out)

    free = tags("free.csv")
    told = tags("told.csv", "--known", table, "--given", "night=0,tree=1")
    assert told["p:dog"][0] == 1 and told["p:sea"][1] == 0
    assert (told["p:night"] == 0).all() and (told["p:tree"] == 1).all()
    assert all("tree" in labels.split(";") for labels in told["labels"])
    assert "dog" in told["labels"][0].split(";")
    assert not np.allclose(told["p:people"], free["p:people"], atol=1e-3)
    assert (told["independent:people"] == free["independent:people"]).all()

    def refused(*more: object) -> str:
        out = tmp_path / "none.csv"
        result = mlcrf("predict", *images, "--model", run, "--out", out, *more)
        assert result.returncode == 1 and not out.exists()
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "did you mean 'night'" in refused("--given", "nigth=1")
    assert "no such file" in refused("--known", tmp_path / "absent.csv")
    elsewhere = tmp_path / "elsewhere.csv"
    elsewhere.write_text(f"image,dog\n{sorted((drawn / 'images').iterdir())[5]},1\n")
    out = tmp_path / "other.csv"
    result = mlcrf("predict", *images, "--model", run, "--out", out, "--known", elsewhere)
    assert "has no row for these images; check its image paths" in result.stderr


def test_predict_albums_need_a_run_that_knows_them(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path
) -> None:
    """One line that says how to get one."""
    words = ("predict", drawn / "images", "--model", run, "--out", tmp_path / "a.csv", "--album")
    result = mlcrf(*words)
    assert result.returncode == 1
    assert "was trained without albums; train with --structure latent --album" in result.stderr


def test_predict_agrees_with_the_library(
    mlcrf: Mlcrf, run: Path, photos: Path, tmp_path: Path
) -> None:
    """The command and `Tagger.load(run).predict` say the same of a picture."""
    out = tmp_path / "tags.jsonl"
    mlcrf("predict", photos / "a.jpg", "--model", run, "--out", out)
    row = json.loads(out.read_text())
    prediction = next(Tagger.load(run).predict([photos / "a.jpg"]))
    assert row["labels"] == list(prediction.labels)
    first = prediction.marginals[0]
    assert row[f"p:{Tagger.load(run).labels.names[0]}"] == pytest.approx(first, abs=1e-4)


def test_predict_reads_names_from_standard_input(
    mlcrf: Mlcrf, run: Path, photos: Path, tmp_path: Path
) -> None:
    """`-` takes one name a line, keeps their order, and `--limit` ends the list."""
    names = [photos / "c.gif", photos / "missing.jpg", photos / "a.jpg", photos / "b.png"]
    out = tmp_path / "tags.csv"
    result = mlcrf(
        "predict",
        "-",
        "--model",
        run,
        "--out",
        out,
        "--limit",
        3,
        stdin="".join(f"{name}\n" for name in names),
    )
    assert result.returncode == 0, result.stderr
    assert list(pd.read_csv(out)["image"]) == [str(names[0]), str(names[2])]
    assert "missing.jpg" in (tmp_path / "tags.errors.csv").read_text()


def test_predict_strict_and_overwrite(
    mlcrf: Mlcrf, run: Path, photos: Path, tmp_path: Path
) -> None:
    """`--strict` turns an unreadable picture into status 1; an existing file needs --overwrite."""
    out = tmp_path / "tags.csv"
    words = ["predict", photos, "--model", run, "--out", out]
    assert mlcrf(*words, "--strict").returncode == 1
    refused = mlcrf(*words)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {out}: exists already")
    assert mlcrf(*words, "--overwrite").returncode == 0


def test_predict_with_nothing_readable_fails(mlcrf: Mlcrf, run: Path, tmp_path: Path) -> None:
    """If no picture can be read the status is 1 and no table is left."""
    (tmp_path / "x.jpg").write_bytes(b"")
    out = tmp_path / "tags.csv"
    result = mlcrf("predict", tmp_path / "x.jpg", "--model", run, "--out", out)
    assert result.returncode == 1
    assert "x.jpg" in result.stderr
    assert not out.exists()
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "nowhere", "--out", "run"], "nowhere"),
        (["train", ".", "--out", "run"], "Supported layouts"),
        (["evaluate", "nowhere", "."], "no such run directory"),
        (["evaluate", ".", "."], "not a finished run"),
        (["predict", ".", "--model", ".", "--out", "tags.csv"], "not a finished run"),
        (["plot-correlations", ".", "--out", "a.png"], "not a finished run"),
        (["train", ".", "--out", "run", "--set", "epoch=3"], "did you mean 'epochs'"),
        (["train", ".", "--out", "run", "--device", "no-such"], "device"),
        (["download", "mirflickr", "--dest", "data"], "mirflickr25k"),
        (["inspect", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(mlcrf: Mlcrf, tmp_path: Path, words: list[str], says: str) -> None:
    """Bad input ends in status 1 with a line that says what is wrong, and leaves nothing."""
    result = mlcrf(*words, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_predict_refuses_empty_folder_and_unknown_ending(
    mlcrf: Mlcrf, run: Path, tmp_path: Path
) -> None:
    """No pictures, and an ending that is none of ours, are one line each."""
    (tmp_path / "empty").mkdir()
    result = mlcrf("predict", tmp_path / "empty", "--model", run, "--out", tmp_path / "a.csv")
    assert (result.returncode, "no images found" in result.stderr) == (1, True)
    result = mlcrf("predict", tmp_path, "--model", run, "--out", tmp_path / "a.xls")
    assert (result.returncode, "unknown ending" in result.stderr) == (1, True)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot_correlations_draws_and_compares(
    mlcrf: Mlcrf, run: Path, drawn: Path, tmp_path: Path, ending: str
) -> None:
    """The picture is made in each format, with the matrix as CSV and rank correlations."""
    out, matrix = tmp_path / f"heatmap.{ending}", tmp_path / "matrix.csv"
    result = mlcrf(
        "plot-correlations",
        run,
        "--out",
        out,
        "--compare",
        drawn / "couplings.csv",
        "--matrix-csv",
        matrix,
    )
    assert result.returncode == 0, result.stderr
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert out.read_bytes().startswith(starts[ending])
    assert "rank correlation with" in result.stdout
    values = pd.read_csv(matrix, index_col="label")
    assert (values.to_numpy() == values.to_numpy().T).all()
    assert list(values.columns) == (run / "labels.txt").read_text().split()


@pytest.mark.parametrize("what", ["phi", "cooccurrence"])
def test_plot_correlations_against_the_training_labels(
    mlcrf: Mlcrf, run: Path, tmp_path: Path, what: str
) -> None:
    """`--compare phi` and `cooccurrence` come from the labels that the run was fitted on."""
    result = mlcrf(
        "plot-correlations", run, "--out", tmp_path / "a.png", "--compare", what, "--json"
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["rank_correlation"]["all known pairs"]["pairs"] == 66


def test_inspect_shows_a_run_and_data(mlcrf: Mlcrf, run: Path, drawn: Path) -> None:
    """Labels and settings of a run; counts of a table, in agreement with pandas."""
    record = json.loads(mlcrf("inspect", run, "--json").stdout)
    assert (record["backbone"], record["couplings"], record["inference"]) == ("tiny", 66, "exact")
    record = json.loads(mlcrf("inspect", drawn / "labels.csv", "--json").stdout)
    table = pd.read_csv(drawn / "labels.csv")
    for name, counts in record["labels"].items():
        assert counts == {"present": int(table[name].sum()), "unknown": 0}


def test_inspect_says_what_other_commands_would_refuse(
    mlcrf: Mlcrf, drawn: Path, tmp_path: Path
) -> None:
    """A note says that something was accepted only if it was."""
    table = tmp_path / "table.csv"
    rows = [f"{path},1," for path in sorted((drawn / "images").iterdir())[:12]]
    table.write_text("\n".join(["image,sky,sea", *rows]) + "\n")
    refused = mlcrf("train", table, "--out", tmp_path / "run")
    assert refused.returncode == 1 and "--accept no-absent" in refused.stderr
    told = mlcrf("inspect", table).stderr
    assert "note: refused without --accept no-absent: " in told and "accepted (" not in told
    assert "note: accepted (no-absent): " in mlcrf("inspect", table, "--accept", "no-absent").stderr


def test_audit(mlcrf: Mlcrf, drawn: Path, tmp_path: Path) -> None:
    """Suspects in words, in a table and as JSON have the same counts; --all has all annotations."""
    words = ("audit", drawn / "labels.csv")
    shown = mlcrf(*words, "--out", tmp_path / "suspects.csv", "--top", 3).stdout
    suspects = pd.read_csv(tmp_path / "suspects.csv")
    assert suspects["score"].is_monotonic_decreasing and suspects["score"].min() >= 0.5
    assert (suspects["given"] != suspects["suggestion"]).all()
    first = suspects.iloc[0]
    assert f"{'' if first['given'] else 'not '}{first['label']}" in shown
    assert Path(first["image"]).exists()
    record = json.loads(mlcrf(*words, "--json", "--all", "--out", tmp_path / "all.csv").stdout)
    assert record["suspects"] == len(suspects) == sum(record["labels"].values())
    table = pd.read_csv(drawn / "labels.csv")
    every = pd.read_csv(tmp_path / "all.csv")
    assert record["annotations"] == len(every) == 240 * (len(table.columns) - 2)
    refused = mlcrf("audit", "mirflickr24")
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert "is a run" in refused.stderr


def test_doctor_names_versions(mlcrf: Mlcrf, tmp_path: Path) -> None:
    """`doctor` lists versions, devices and which backbones work offline."""
    record = json.loads(mlcrf("doctor", "--json", "--cache-dir", tmp_path).stdout)
    assert record["versions"]["mlcrf"] == __version__
    assert record["backbones_offline"]["lite0"] is True
    assert "cpu" in record["devices"]


def test_training_twice_gives_the_same_bits(mlcrf: Mlcrf, drawn: Path, tmp_path: Path) -> None:
    """Same seed, same versions: the weights of two runs are equal to the bit."""
    for name in ("one", "two"):
        result = mlcrf(
            "train",
            drawn / "labels.csv",
            "--out",
            tmp_path / name,
            "--backbone",
            "tiny",
            "--finetune",
            "all",
            "--epochs",
            1,
            "--engine",
            "torch",
            "--cache-dir",
            tmp_path / f"cache-{name}",
            "--set",
            "penalties=[0.1]",
            "--set",
            "pairwise_penalties=[0.01]",
            *("--set", "structure_weights=[1]", "--set", "schedule=joint"),
        )
        assert result.returncode == 0, result.stderr
    weights = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_plot_correlations_makes_a_page(mlcrf: Mlcrf, run: Path, tmp_path: Path) -> None:
    """`.html` gives a page; it says how many couplings are in it."""
    out = tmp_path / "couplings.html"
    result = mlcrf("plot-correlations", run, "--out", out, "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert (record["couplings"], record["couplings_in_it"]) == (66, 66)
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
