"""Mistakes in a command's words get one line that says what was probably meant."""

import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mlcrf import shipped_models
from mlcrf.cli import app
from mlcrf.hints import are, counted, describe_fault, did_you_mean, expected


def tell(*words: object) -> str:
    """Return what a refused command says, on one line."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code in (1, 2)
    text = f"{result.output} {result.exception}"
    for word in ("Value error", "Input should", "unable to parse", "Traceback"):
        assert word not in text
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("trian x", "Did you mean 'train'?"),
        (
            "train x --out y --infernce exact",
            "--infernce; did you mean '--inference'?",
        ),
        ("predict x --structure full", "--structure here; it is an option of `mlcrf train`"),
        (
            "predict x --structur full",
            "did you mean '--structure'? That is an option of `mlcrf train`.",
        ),
        ("tag a --xmp --coverage 0.9", "leaves labels open; write families by `mlcrf predict"),
        ("review a --coverage 0.9", "answers make something known; write them by `mlcrf predict"),
        ("serve --model a", "--model: it goes without a name, in its place: mlcrf serve MODEL"),
        ("compare a b --model c", "in its place: mlcrf compare RUNS"),
        ("evaluate a --data b", "--data: it goes without a name, in its place: mlcrf evaluate RUN"),
        ("evaluate a b --xmp", "no such option --xmp here; it is an option of `mlcrf tag`"),
        ("train x --out y --batch-size 3", "it is a setting: --set batch_size=VALUE"),
        ("train x --out y --structure spars", "got 'spars'; did you mean 'sparse'?"),
        ("train x --out y --epochs ten", "expected a whole number of at least 1, got 'ten'"),
        ("train x --out y --set epochs=0", "setting epochs: expected a whole number of at least 1"),
        ("train x --out y --resume --overwrite", "--resume continues a run, --overwrite replaces"),
        ("train x --out y --accept no-absnt", "did you mean 'no-absent'?"),
        ("train --from-review a.db --out y --fold-case", "--from-review reads no table"),
        ("serve --port 99999", "expected a whole number from 0 to 65535, got '99999'"),
        ("predict x --out a.csv --threshold 7", "expected a number from 0 to 1, got '7'"),
        ("predict x --out a.csv --decode top-k", "--decode top-k needs --top-k NUMBER"),
        ("predict x --out a.csv --top-k 3", "for --decode top-k, not for --decode threshold"),
        (
            "predict x --out a.csv --rarity 1",
            "--rarity is for --decode top-k, not for --decode thr",
        ),
        (
            "predict x --out a.csv --decode top-k --top-k 3 --rarity some",
            "--rarity: expected a number from 0 to 10 or auto, got 'some'",
        ),
        (
            "predict x --out a.csv --decode map --threshold 0.3",
            "--threshold is for --decode threshold, not for --decode map",
        ),
        ("predict x --out a.csv --at-least 3 --at-most 2", "--at-least 3 is more than --at-most 2"),
        ("predict x --out a.csv --decode top-k --top-k 2 --at-most 3", "--top-k is exact"),
        ("predict x --out a.csv --label-sep ;", "--label-sep is for --known; give both"),
        ("predict x --out a.csv --sidecar-dir x", "--sidecar-dir is for --known-keywords"),
        ("predict x --out a.csv --workers 2", "--workers needs --cluster"),
        ("evaluate a b c", "one argument too many: c"),
        (
            "train x --out y --epochs 3",
            "--epochs is for --finetune last or all, or for a head with dropout",
        ),
        ("train . --out y --label-set 14", "--label-set is for a folder of MIRFLICKR, and . is"),
        ("evaluate mirflickr24 . --label-set 14", "--label-set is for a folder of MIRFLICKR"),
        ("tag a --xmp --replace-txt", "--replace-txt is for --txt; give both"),
        ("tag a --txt --parent AI", "--parent is for --xmp or --embed; give both"),
        ("tag a --txt --sidecar-name photo.xmp", "--sidecar-name is for --xmp; give both"),
        ("tag a --undo --given sky=1", "--undo needs no labels; leave out --from, --model, and"),
        ("tag a --undo --precision 0.9", "--undo needs no labels; leave out --from, --model, and"),
        ("tag a --undo --only sky", "--undo needs no labels; leave out --from, --model, and"),
        ("evaluate mirflickr42 x", "no such run directory; did you mean 'mirflickr24'?"),
    ],
)
def test_words(words: str, says: str) -> None:
    assert says in tell(*words.split())


def test_every_choice_suggests_its_nearest_value() -> None:
    """Of each option with named values: a letter more is answered with the value."""
    seen = set()
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        for parameter in command.get_params(context):
            for value in getattr(parameter.type_descriptor, "choices", None) or ():
                assert isinstance(value, Enum)
                said = tell(name, f"{parameter.opts[0]}={value.value}q")
                assert f"got '{value.value}q'; did you mean " in said
                seen.add((name, parameter.opts[0]))
    assert ("report", "--split") in seen
    assert ("train", "--objective") in seen
    assert ("train", "--accept") in seen


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "evaluate {data} mirflickr24",
            "the run first: mlcrf evaluate mirflickr24 {data}",
        ),
        ("report {data} mirflickr24 --out a.html", "mlcrf report mirflickr24 {data}"),
        ("evaluate mirflickr24 mirflickr38", "mirflickr38 is a run; expected data"),
        ("predict {data} mirflickr24 --out a.csv", "mlcrf predict IMAGES --model mirflickr24"),
        ("tag mirflickr24 {data} --xmp", "mlcrf tag IMAGES --model mirflickr24"),
        ("predict {data}/t.csv --out a.csv", "For a table of known labels: --known"),
        ("tag {data}/t.csv --xmp", "For a table of labels to write: --from"),
        ("review mirflickr24", "mlcrf review FOLDER --model mirflickr24"),
        ("review {data} mirflickr24", "too many: mirflickr24; it is a run: --model mirflickr24"),
        ("train mirflickr24 --out y", "mlcrf train DATA --config {models}/mirflickr24/config.json"),
        ("convert mirflickr24 --out a.csv", "expected a table of predictions"),
        ("export {data}/t.csv --onnx a.onnx", "is a file, not a run directory"),
        ("plot-correlations {data} --out a.png", "not a finished run"),
        ("serve {data}/t.csv", "is a file, not a run directory"),
    ],
)
def test_arguments_in_each_others_place(tmp_path: Path, words: str, says: str) -> None:
    """A run where data or images belong, and the reverse, are told with the command to write."""
    (tmp_path / "t.csv").touch()
    models = Path(shipped_models.__file__).parent
    said = tell(*words.format(data=tmp_path).split())
    assert says.format(data=tmp_path, models=models) in said


@pytest.mark.parametrize(
    "words",
    [
        "evaluate mirflickr24 {data} --out {data}",
        "compare mirflickr24 mirflickr38 --data {data} --out {data}",
        "evaluate mirflickr24 a.csv --hints web={data} --out {data}",
        "evaluate mirflickr24 a.csv --costs {data} --out {link}",
        "audit {link} --out {data}",
        "audit {data} --answers sqlite:///a.db --corrected {data}",
        "plot-correlations mirflickr24 --out a.png --compare {data} --matrix-csv {data}",
        "features {data} --out {data} --overwrite",
        "predict . --known {data} --out {data} --overwrite",
    ],
)
def test_what_is_read_is_not_replaced(tmp_path: Path, words: str) -> None:
    """A table of labels stays if it is also the file to write, by another name too."""
    table, link = tmp_path / "data.csv", tmp_path / "link.csv"
    table.write_text("image,sea\na.jpg,1\n")
    link.symlink_to(table)
    said = tell(*words.format(data=table, link=link).split())
    assert "would replace what the command reads; choose another file" in said
    assert table.read_text() == "image,sea\na.jpg,1\n"


def test_closest_names() -> None:
    """Case does not matter, and what is like nothing gets no suggestion."""
    assert did_you_mean("SEAA", ["sea", "sky"]) == "; did you mean 'sea'?"
    assert did_you_mean("mooon", ["sea", "sky"]) == ""
    assert did_you_mean("lite", ["lite0", "lite1", "tree"], most=2).count("lite") == 2


@pytest.mark.parametrize(
    ("kind", "bounds", "says"),
    [
        (int, {"ge": 1, "le": 40}, "a whole number from 1 to 40"),
        (int, {"ge": 1}, "a whole number of at least 1"),
        (float, {"gt": 0, "le": 1}, "a number above 0, at most 1"),
        (float, {"ge": 0, "lt": 1}, "a number from 0 to below 1"),
        (float, {"le": 3}, "a number of at most 3"),
        (float, {"lt": 3}, "a number below 3"),
        (bool, {}, "true or false"),
        (str, {}, "text"),
    ],
)
def test_what_is_expected(kind: type, bounds: dict[str, float], says: str) -> None:
    assert expected(kind, **bounds) == says


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"type": "missing", "msg": "Field required"}, "is missing"),
        ({"type": "extra_forbidden", "msg": "Extra inputs"}, "is unknown"),
        ({"type": "int_parsing", "msg": "Input should be"}, "expected a whole number"),
        ({"type": "greater_than", "msg": "x", "ctx": {"gt": 0}}, "expected a number above 0"),
        ({"type": "enum", "msg": "x", "ctx": {"expected": "'a' or 'b'"}}, "expected a or b"),
        ({"type": "value_error", "msg": "Value error, is not UTF-8"}, "is not UTF-8"),
    ],
)
def test_faults_in_our_words(fault: dict[str, Any], says: str) -> None:
    assert describe_fault(fault) == says
    assert re.match("is|expected", says)


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 images are"), (1, "1 image is"), (2, "2 images are")],
)
def test_numbers_and_their_nouns(count: int, said: str) -> None:
    """Noun and verb agree with the number; another plural than that with an s is given."""
    assert f"{counted(count, 'image')} {are(count)}" == said
    assert counted(count, "box", "boxes").endswith("box" if count == 1 else "boxes")
