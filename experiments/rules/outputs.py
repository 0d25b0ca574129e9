"""Count the label sets that break a rule in every kind of output, over all test photos.

    python -m experiments.rules.outputs [--data FOLDER] [--model RUN] [--slow N] [--only PART]
        [--quick]

A run of 300 photos with all hard rules of this folder tags the test photos. The files that it
writes are read with csv, json and string methods, and the rules are applied as the sentences that
they are, by code that mlcrf does not use. `baseline` counts what a threshold of 0.5 on the
independent baseline, which knows no rules, would break in the same photos; the others have to be 0.

`table` and `JSON lines` are written by `predict` with every rule of decision; tidy tables and files
for Label Studio and FiftyOne by `convert`; `sidecars` by `tag`, of photos with a tag; `page` is
what a review shows without answers, and what it would write; `service` and `graph` answer for the
first so many photos.
The graph gives probabilities, of which those above 0.5 count.
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from experiments import frame
from experiments.rules.run import RULES, few_photos, rules_of, trained_with
from mlcrf.checkpoint import Run, load_run
from mlcrf.choices import Decision
from mlcrf.cli import app
from mlcrf.data.manifest import Manifest, Split
from mlcrf.prediction import Tagger
from mlcrf.review.database import ReviewDatabase
from mlcrf.review.launch import start_review

Sets = Iterable[set[str]]
_ALL = "and never together"
_HALF = 0.5
_SLOW = ("service, POST /tags/image", "graph (ONNX), above 0.5")


def main() -> None:
    """Tag, read what was written, and count."""
    arguments = frame.read_options(
        __doc__,
        "rules",
        "outputs.json",
        model={"type": Path, "help": "a run with rules; trained if not given"},
        slow={"type": int, "default": 2000, "help": "photos for the service and the graph"},
        only={"choices": ["files", "slow"], "help": "keep the others' figures, of the same run"},
    )
    data = frame.photos(arguments, 24)
    test = data.part(Split.TEST)
    if arguments.quick:
        arguments.slow = min(arguments.slow, 20)
    if arguments.model is None:
        part = few_photos(data, 100 if arguments.quick else 300)
        run = trained_with(arguments, part, rules_of(RULES[_ALL], data), "outputs")
    else:
        run = load_run(arguments.model)
    assert run.rules, f"{run.path} has no rules"
    sentences = run.rules.lines(run.labels.names)
    kept = frame.earlier(arguments) if arguments.only else {}
    assert kept.get("model", run.digest) == run.digest, "the figures to keep are of another run"
    slow = [row for row in kept.get("rows", []) if row["output"] in _SLOW]
    rows: frame.Rows = [row for row in kept.get("rows", []) if row["output"] not in _SLOW]
    if arguments.only == "files":
        rows = []

    def count(name: str, sets: Sets) -> None:
        listed = list(sets)
        strange = set().union(*listed) - set(run.labels.names)
        assert not strange, f"{name}: {strange} are no labels"
        broken = sum(breaks(one, sentences) for one in listed)
        tags = sum(map(len, listed))
        rows.append({"output": name, "photos": len(listed), "tags": tags, "broken": broken})
        print(f"{name}: {broken} of {len(listed)}", flush=True)

    if arguments.only != "slow":
        count("baseline, which knows no rules", _independent(run, test))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for image in test.images:
            shutil.copy(image.path, folder)
        outputs: list[Iterator[tuple[str, Sets]]] = []
        if arguments.only != "slow":
            outputs.append(_files(run, folder, Path(place)))
        if arguments.only != "files":
            outputs.append(_answers(run, folder, Path(place), arguments.slow))
        for name, sets in chain.from_iterable(outputs):
            count(name, sets)
            frame.keep(arguments, rows, rules=sentences, model=run.digest)
    if arguments.only == "files":
        rows += slow
        frame.keep(arguments, rows, rules=sentences, model=run.digest)
    print(tables({"rows": rows})["outputs"])


def breaks(present: set[str], sentences: list[str]) -> bool:
    """Return whether a label set breaks a rule as it is written; what has a cost does not count."""
    for sentence in sentences:
        if "=>" in sentence:
            child, parent = (name.strip() for name in sentence.split("=>"))
            if child in present and parent not in present:
                return True
            continue
        kind, _, listed = sentence.partition(":")
        if "(" in kind:
            continue
        number = len(present & {name.strip() for name in listed.split(",")})
        match kind.split():
            case ["never", "together"] | ["exclusive"]:
                wrong = number > 1
            case ["at", "most", most, "of"]:
                wrong = number > int(most)
            case ["at", "least", least, "of"]:
                wrong = number < int(least)
            case ["exactly", exact, "of"]:
                wrong = number != int(exact)
            case _:
                raise ValueError(f"expected a rule, got {sentence!r}")
        if wrong:
            return True
    return False


def _files(run: Run, folder: Path, place: Path) -> Iterator[tuple[str, Sets]]:
    """Yield each kind of file, and what the page shows, as the label sets in it."""
    model = ["--model", str(run.path)]
    for decision in Decision:
        if decision is Decision.F1_OF_MEANS:  # of evaluate and report only
            continue
        more = ["--top-k", "4"] if decision.has_k else []
        for ending in ("csv", "jsonl"):
            out = place / f"{decision.value}.{ending}"
            how = ["--decode", decision.value, *more]
            _command("predict", str(folder), *model, "--out", str(out), *how)
            yield f"{_KINDS[ending]}, {decision.value}", _READERS[ending](out)
    first = place / "threshold.csv"
    for ending, form in (("tidy.csv", "--tidy"), ("ls.json", ""), ("fo.json", "")):
        out = place / ending
        how = [form] if form else ["--for", _FOR[ending]]
        _command("convert", str(first), "--out", str(out), *how)
        yield _TITLES[ending], _READERS[ending](out)
    _command("tag", str(folder), *model, "--xmp")
    yield "sidecars", map(_of_sidecar, sorted(folder.glob("*.xmp")))
    for sidecar in folder.glob("*.xmp"):
        sidecar.unlink()
    yield from _of_page(run, folder, place)


def _answers(run: Run, folder: Path, place: Path, slow: int) -> Iterator[tuple[str, Sets]]:
    """Yield what the service and the graph answer for the first so many photos."""
    photos = sorted(folder.glob("*.jpg"))[:slow]
    yield _SLOW[0], _of_service(run, photos)
    yield _SLOW[1], _of_graph(run, photos, place)


def _command(*words: str) -> None:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output


def _of_csv(path: Path) -> Iterator[set[str]]:
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name.strip() for name in row["labels"].split(";")} - {""}


def _of_lines(path: Path) -> Iterator[set[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield set(json.loads(line)["labels"])


def _of_tidy(path: Path) -> list[set[str]]:
    found: dict[str, set[str]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            present = found.setdefault(row["image"], set())
            if row["present"] in ("1", "True", "true"):
                present.add(row["label"])
    return list(found.values())


def _of_label_studio(path: Path) -> Iterator[set[str]]:
    for task in json.loads(path.read_text(encoding="utf-8")):
        results = task["predictions"][0]["result"]
        yield {name for one in results for name in one["value"]["choices"]}


def _of_fiftyone(path: Path) -> Iterator[set[str]]:
    written = json.loads(path.read_text(encoding="utf-8"))
    for found in written["labels"].values():
        yield {written["classes"][one["label"]] for one in found or []}


def _of_sidecar(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if "<dc:subject>" not in text:
        return set()
    subjects = text.split("<dc:subject>")[1].split("</dc:subject>")[0]
    return {part.split("</rdf:li>")[0] for part in subjects.split("<rdf:li>")[1:]}


def _of_page(run: Run, folder: Path, place: Path) -> Iterator[tuple[str, Sets]]:
    """Yield what a review without answers shows of each photo, and what it would write."""
    database = ReviewDatabase(f"sqlite:///{place}/tags.db")
    review, _ = start_review(folder, run, database, frame.extractor_of(run))
    names = np.array(run.labels.names)
    shown = review.tags_of(list(range(len(review.photos))), limit=len(names))
    yield "page, tags of a photo", ({*names[one]} for one in shown)
    yield "page, Write tags", ({*names[one]} for one in review.decided(_HALF).numpy())


def _of_service(run: Run, photos: list[Path]) -> Iterator[set[str]]:
    from starlette.testclient import TestClient

    from mlcrf.serving.monitoring import Limits
    from mlcrf.serving.tagging_app import make_app

    limits = Limits(images=16, megabytes=8, batch=16, waiting=32)
    with TestClient(make_app(run, Tagger(run), limits)) as client:
        for photo in photos:
            sent = {"content": photo.read_bytes(), "headers": {"Content-Type": "image/jpeg"}}
            answer = client.post("/tags/image", **sent)
            assert answer.status_code == 200, answer.text
            yield set(answer.json()["labels"])


def _of_graph(run: Run, photos: list[Path], place: Path) -> Iterator[set[str]]:
    import onnxruntime
    from PIL import Image

    _command("export", str(run.path), "--onnx", str(place / "model.onnx"))
    session = onnxruntime.InferenceSession(place / "model.onnx")
    size = session.get_inputs()[0].shape[1]
    names = np.array(json.loads(session.get_modelmeta().custom_metadata_map["labels"]))
    for photo in photos:
        pixels = np.asarray(
            Image.open(photo)
            .convert("RGB")
            .resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)
        )
        marginals, _ = session.run(None, {"pixels": pixels[None]})
        yield {*names[marginals[0] > _HALF]}


def _independent(run: Run, test: Manifest) -> Iterator[set[str]]:
    import torch

    with torch.no_grad():
        unary = run.independent(frame.features_of(run, test)).unary
    names = np.array(run.labels.names)
    return ({*names[one]} for one in (unary > 0).numpy())


_READERS: dict[str, Callable[[Path], Sets]] = {
    "csv": _of_csv,
    "jsonl": _of_lines,
    "tidy.csv": _of_tidy,
    "ls.json": _of_label_studio,
    "fo.json": _of_fiftyone,
}
_KINDS = {"csv": "table", "jsonl": "JSON lines"}
_FOR = {"ls.json": "label-studio", "fo.json": "fiftyone"}
_TITLES = {"tidy.csv": "tidy table", "ls.json": "Label Studio", "fo.json": "FiftyOne"}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`outputs`: a line for each kind of output."""
    head = ["output", "label sets", "labels in them", "sets that break a rule"]
    lines = [
        [row["output"], f"{row['photos']:,}", f"{row['tags']:,}", str(row["broken"])]
        for row in results["rows"]
    ]
    return {"outputs": frame.table(lines, head)}


if __name__ == "__main__":
    main()
