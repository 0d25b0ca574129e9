"""Measure what is learned from tables that leave out labels.

    python -m experiments.sources.run [--data TABLE] [--quick]

`halves`: half of the training and validation images in each of two tables, with every second label.
Trained apart, as one, and with all labels of all images; and unaries fitted as one with couplings
held at those of all labels, which is more than can be learned from two tables.

`positives`: half of the present labels of training and validation images are lost by chance, as in
tags that people give (14 labels); what is lost is taken as absent, or the table is learned from as
one that lists only a part of what is present, or nothing is lost.

`hints`: two simulated sources name labels of all images, with 70 % precision and 40 % recall, and
with 95 % and 20 %, independent of the image given the labels. A run on all labels ignores them,
takes them as known, weighs them (`--hints`), or a logistic regression of each label on the log-odds
of all labels and on both sources' tags is stacked on them. `nll` is of single labels here, with
probabilities from 0.001 to 0.999: what is clamped to a wrong value has none otherwise.

Both models of a run are scored on the test images: `nll` of all labels together, in nats per image
(apart: the sum of both runs), and mAP over all labels. Of the gap between the worst and the fully
labelled, the share that is closed, with its 95 % interval over images.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from experiments import frame
from mlcrf.checkpoint import Run
from mlcrf.choices import ObjectiveName, Schedule
from mlcrf.config import TrainSettings
from mlcrf.crf import Potentials
from mlcrf.data.joining import join_tables, with_mentions
from mlcrf.data.manifest import Manifest, Split
from mlcrf.labels import UNKNOWN, LabelSpace
from mlcrf.metrics import Ranking
from mlcrf.model import LabelCrf
from mlcrf.objectives import exact_likelihood_loss
from mlcrf.prediction.hinting import weigh_hints
from mlcrf.processes import ALONE
from mlcrf.training.examples import Examples
from mlcrf.training.features import FeatureSpace
from mlcrf.training.fit import fit
from mlcrf.training.fitting import fit_models
from mlcrf.training.mentions import code_silence
from mlcrf.training.plan import plan_training
from mlcrf.training.preconditioner import Penalty, counted_variance
from mlcrf.training.stacking import score_by_baselines
from mlcrf.training.stages import Stages
from mlcrf.training.trust import learn_trust

PENALTIES: dict[str, Any] = {
    "penalties": (0.03, 0.1, 0.3),
    "pairwise_penalties": (0.001, 0.01),
}
LOST = 0.5  # share of the present labels
# the likelihood in all cases: lists are learned from by it, complete tables otherwise would not be
_STACKED = {"schedule": Schedule.STACKED, "objective": ObjectiveName.EXACT_LIKELIHOOD}
SOURCES = {"first": (0.7, 0.4), "second": (0.95, 0.2)}  # precision and recall
_GIVEN = "as one, couplings given"
_SHARE_GIVEN = "--lists positives, share given"
_HELD = 1e6  # penalty of couplings beside those given
_TOLERANCE = 1e-4  # nats per image
_SURE = (0.001, 0.999)
_AT_ONCE = 1024
_MAP_RESAMPLES = 200


@dataclass(frozen=True)
class Answers:
    """A model's answers on the test images.

    Attributes:
        nll: negative log-likelihood of each image's labels (N,).
        marginals: probability of each label (N, L).
    """

    nll: NDArray[np.float64]
    marginals: NDArray[np.float64]


def main() -> None:
    """Train, score, and keep the figures."""
    arguments = frame.read_options(
        __doc__,
        "sources",
        seed={"type": int, "default": 0, "help": "of halves, of what is lost, and of hints"},
        only={"choices": ["halves", "positives", "hints"], "help": "keep the others' figures"},
    )
    data = frame.photos(arguments)
    more = frame.QUICK if arguments.quick else PENALTIES
    settings = TrainSettings(**more)
    test = data.part(Split.TEST)

    def learn(name: str, manifest: Manifest, **more: Any) -> Run:
        place = arguments.runs / "sources" / f"{len(manifest.labels)}-{name}-{arguments.seed}"
        return frame.trained(manifest, place, settings.model_copy(update=more))

    questions = {"halves": _halves, "positives": _positives, "hints": _hints}
    rows: frame.Rows = []
    if arguments.only:
        questions = {arguments.only: questions[arguments.only]}
        kept = frame.earlier(arguments).get("rows", [])
        rows = [row for row in kept if row["question"] != arguments.only]
    for question in questions.values():
        rows += question(data, test, learn, arguments)
        frame.keep(arguments, rows)
    print("\n\n".join(tables({"rows": rows}).values()))


def _positives(
    data: Manifest, test: Manifest, learn: Callable[..., Run], arguments: Any
) -> frame.Rows:
    """Score runs of a table that leaves out present labels, and of the complete one.

    MIRFLICKR's 14 relevant labels: fits to what is not mentioned sum over all label sets twice.
    """
    data = frame.photos(arguments, 14)
    test = data.part(Split.TEST)
    tested = np.array(data.splits) == Split.TEST
    chance = np.random.default_rng(arguments.seed).random(data.targets.shape)
    lost = (data.targets == 1) & (chance < LOST) & ~tested[:, None]
    left = replace(data, targets=np.where(lost, np.int8(0), data.targets))
    marked = replace(data, targets=np.where(lost, np.int8(UNKNOWN), data.targets))
    complete = learn("complete", data, **_STACKED)
    worth = _worth(complete, test)
    drawn = np.random.default_rng(arguments.seed + 1).random(len(data))
    tags = with_mentions(left, "tags")
    listed = learn("positives", tags, **_STACKED)
    runs = {
        "taken as absent": learn("absent", left, **_STACKED),
        "--lists positives": listed,
        "what was lost marked as unknown": learn("marked", marked, **_STACKED),
        "complete, of half of the images": learn(
            "half-of-images", data.rows(np.flatnonzero(tested | (drawn < 1 - LOST))), **_STACKED
        ),
        "complete, of images of as much information": learn(
            "as-much", data.rows(np.flatnonzero(tested | (drawn < worth))), **_STACKED
        ),
        "complete": complete,
    }
    found = {name: _of_run(run, test) for name, run in runs.items()}
    found[_SHARE_GIVEN] = _with_share_given(listed, tags, test)
    found["complete"] = found.pop("complete")
    rows = _rows("positives", found, test, "taken as absent", "complete", arguments)
    estimated = list(listed.mentions["tags"].values())
    for row in rows:
        if row["case"] == "--lists positives":
            row["listed"] = [float(np.mean(estimated)), min(estimated), max(estimated)]
            row["worth"] = worth
        if row["case"] in runs:
            fits = frame.record_of(runs[row["case"]])["fits"]
            row["penalty"] = fits[row["model"]]["penalty_weights"]
    return rows


@torch.no_grad()
def _worth(complete: Run, test: Manifest) -> float:
    """Return the share of the information that a list holds, as a mean over labels."""
    p = complete.independent(frame.features_of(complete, test)).unary.double().sigmoid()
    c, information = 1 - LOST, p * (1 - p)
    share = (information * c * (1 - p) / (1 - c * p)).sum(0) / information.sum(0)
    return float(share.mean())


def _with_share_given(listed: Run, left: Manifest, test: Manifest) -> dict[str, Answers]:
    """Return the answers of fits that are told which share is listed, instead of estimating it."""
    targets, codes = code_silence(left.targets, left.mentions)
    left = replace(left, targets=targets)
    parts = []
    for split in (Split.TRAIN, Split.VALIDATION):
        part = left.part(split)
        parts.append(Examples(frame.features_of(listed, part).numpy(), part.targets))
    silence = codes.evidence(np.full((1, len(left.labels)), 1 - LOST))
    seen = np.maximum(parts[0].targets, 0)
    plan = plan_training(listed.settings, left.labels, seen, left.rules, mentions=True)
    plan = replace(plan, silence=silence)
    fitted = fit_models(*parts, plan, stages=Stages(None, ""))
    models = {"independent": fitted.independent.model, "crf": fitted.crf.model}
    return {name: _answers(model, listed, test) for name, model in models.items()}


def _halves(
    data: Manifest, test: Manifest, learn: Callable[..., Run], arguments: Any
) -> frame.Rows:
    """Score runs of two tables with different labels: apart, as one, and fully labelled."""
    names = data.labels.names
    halves = [LabelSpace(names[0::2]), LabelSpace(names[1::2])]
    draw = np.random.default_rng(arguments.seed).random(len(data))
    found: dict[str, dict[str, Answers]] = {}
    apart = [
        _of_run(learn(f"half-{number}", one), test)
        for number, one in enumerate(_tables(data, halves, draw))
    ]
    order = LabelSpace((*halves[0], *halves[1])).columns_in(names)
    place = np.argsort(order)
    for model in ("independent", "crf"):
        both = [answers[model] for answers in apart]
        marginals = np.concatenate([one.marginals for one in both], axis=1)[:, place]
        found.setdefault("apart", {})[model] = Answers(both[0].nll + both[1].nll, marginals)
    first, second = _tables(data, halves, draw)
    union = join_tables({"first": first, "second": second}).relabelled(data.labels)
    found["as one"] = _of_run(learn("union-0", union), test)
    full = learn("full", data)
    found[_GIVEN] = {"crf": _answers(_with_couplings_of(full, union), full, test)}
    found["all labels"] = _of_run(full, test)
    return _rows("halves", found, test, "apart", "all labels", arguments)


def _with_couplings_of(full: Run, union: Manifest) -> LabelCrf:
    """Return unaries that maximise the likelihood of both tables under the couplings of a run."""
    learned = union.rows(np.flatnonzero(np.array(union.splits) != Split.TEST))
    space = FeatureSpace(frame.features_of(full, learned).numpy(), learned.targets)
    exact, couplings = full.make_inference(), full.crf.pairwise.detach()

    def loss(potentials: Potentials, targets: torch.Tensor) -> torch.Tensor:
        given = replace(potentials, pairwise=potentials.pairwise + couplings)
        return exact_likelihood_loss(given, targets, exact=exact)

    start = full.crf.clone()
    with torch.no_grad():
        start.pairwise.zero_()
    known = float((learned.targets >= 0).mean())  # losses are means over all images
    chosen = json.loads((full.path / "metrics.json").read_text(encoding="utf-8"))["fits"]["crf"]
    model, report = fit(
        space,
        space.to_axes(start),
        loss,
        Penalty(known * chosen["penalty_weights"], _HELD),
        curvature=counted_variance,
        tolerance=_TOLERANCE,
        progress=print,
    )
    assert report.converged, report
    with torch.no_grad():
        model.pairwise.add_(couplings)
    return space.to_features(model)


def _hints(data: Manifest, test: Manifest, learn: Callable[..., Run], arguments: Any) -> frame.Rows:
    """Score the run on all labels with hints of two sources, used in several ways."""
    run = learn("full", data)
    rng = np.random.default_rng(arguments.seed)
    learned = np.flatnonzero(np.array(data.splits) != Split.TEST)
    seen = data.rows(learned)
    share = (seen.targets == 1).mean(0)
    said = {name: _draw_hints(data, share, *each, rng) for name, each in SOURCES.items()}
    features = frame.features_of(run, seen).numpy()
    examples = Examples(features, seen.targets)
    keys = [image.key for image in data.images]
    hints = {name: dict(zip(keys, rows, strict=True)) for name, rows in said.items()}
    scores = score_by_baselines(examples, run.settings, ALONE)
    trust = learn_trust(
        examples,
        seen.images,
        hints,
        data.labels,
        run.settings,
        ALONE,
        lambda name, compute: {"scores": torch.from_numpy(scores)},
    )
    run = replace(run, hints=trust)
    of_test = np.flatnonzero(np.array(data.splits) == Split.TEST)
    evidence = weigh_hints(run, hints, {}).of(test.images)
    named = np.maximum.reduce([rows[of_test] for rows in said.values()])
    known = torch.from_numpy(np.where(named == 1, 1, -1)).long()
    inputs = frame.features_of(run, test)
    with torch.no_grad():
        log_odds = run.independent(inputs).unary
    stacked = _stack(
        [scores, *(rows[learned] for rows in said.values())],
        seen.targets,
        [log_odds.numpy(), *(rows[of_test] for rows in said.values())],
    )
    found = {
        "ignored": _marginals(run, inputs),
        "taken as known": _marginals(run, inputs, known=known),
        "stacked, by logistic regression": stacked,
        "weighed (--hints), in the baseline": (log_odds + evidence).sigmoid().double().numpy(),
        "weighed (--hints), in the CRF": _marginals(run, inputs, evidence=evidence),
    }
    return _hint_rows(found, test, arguments)


def _draw_hints(
    data: Manifest,
    share: NDArray[np.float64],
    precision: float,
    recall: float,
    rng: np.random.Generator,
) -> NDArray[np.int8]:
    """Return what a source of this precision and recall names, 1 or 0 (N, L)."""
    false = recall * share * (1 - precision) / (precision * (1 - share))
    chance = np.where(data.targets == 1, recall, false)
    return (rng.random(data.targets.shape) < chance).astype(np.int8)


def _stack(
    inputs: list[NDArray[Any]], targets: NDArray[np.int8], others: list[NDArray[Any]]
) -> NDArray[np.float64]:
    """Return the probabilities of other images by a logistic regression of each label."""
    rows, new = np.hstack(inputs).astype(float), np.hstack(others).astype(float)
    fitted = [LogisticRegression(max_iter=500).fit(rows, own) for own in targets.T]
    return np.stack([one.predict_proba(new)[:, 1] for one in fitted], axis=1)


@torch.no_grad()
def _marginals(
    run: Run,
    inputs: torch.Tensor,
    *,
    known: torch.Tensor | None = None,
    evidence: torch.Tensor | None = None,
) -> NDArray[np.float64]:
    """Return the CRF's marginals (N, L)."""
    method, found = run.make_inference(), []
    for rows in torch.arange(len(inputs)).split(_AT_ONCE):
        potentials = run.crf(inputs[rows])
        if evidence is not None:
            potentials = replace(potentials, unary=potentials.unary + evidence[rows])
        posterior = method(potentials, known=None if known is None else known[rows])
        found.append(posterior.marginals)
    return torch.cat(found).double().numpy()


def _hint_rows(found: dict[str, NDArray[np.float64]], test: Manifest, arguments: Any) -> frame.Rows:
    """Return a row for each way, with its difference to the last."""
    draws = _draw_weights(len(test), arguments.resamples)
    nll, precision = {}, {}
    for name, marginals in found.items():
        p = np.where(test.targets == 1, marginals, 1 - marginals).clip(*_SURE)
        by_image = -np.log(p).sum(1)
        nll[name] = np.array([by_image @ some / len(test) for some in draws])
        precision[name] = _precision(Answers(by_image, marginals), test, draws[:_MAP_RESAMPLES])
    last = list(found)[-1]
    return [
        {
            "question": "hints",
            "case": name,
            "nll": float(nll[name][0]),
            "nll_more": _interval_of(nll[name] - nll[last]),
            "mean_average_precision": float(precision[name][0]),
            "map_more": _interval_of(precision[name] - precision[last]),
        }
        for name in found
    ]


def _draw_weights(count: int, resamples: int) -> list[NDArray[np.float64]]:
    """Return how often each image counts in each resample; the first is of all images once."""
    rng = np.random.default_rng(0)
    draws = [np.ones(count)]
    for _ in range(resamples):
        draws.append(np.bincount(rng.integers(count, size=count), minlength=count).astype(float))
    return draws


def _interval_of(values: NDArray[np.float64]) -> list[float]:
    """Return the first value, and the 95 % interval of the others."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return [float(values[0]), float(low), float(high)]


def _tables(data: Manifest, halves: list[LabelSpace], draw: NDArray[np.float64]) -> list[Manifest]:
    """Return a table for each half of the labels, with half of the images."""
    tested = np.array(data.splits) == Split.TEST
    parts = []
    for labels, inside in zip(halves, (draw < 0.5, draw >= 0.5), strict=True):
        columns = [data.labels.index(name) for name in labels]
        rows = np.flatnonzero(inside & ~tested)
        part = data.rows(rows)
        parts.append(replace(part, targets=part.targets[:, columns], labels=labels))
    return parts


def _of_run(run: Run, test: Manifest) -> dict[str, Answers]:
    """Return the answers of both models of a run, for its own labels."""
    models = {"independent": run.independent, "crf": run.crf}
    return {name: _answers(model, run, test) for name, model in models.items()}


@torch.no_grad()
def _answers(model: LabelCrf, run: Run, test: Manifest) -> Answers:
    """Return the answers of a model of a run's features, for the run's labels."""
    columns = [test.labels.index(name) for name in run.labels]
    features = frame.features_of(run, test)
    targets = torch.from_numpy(test.targets[:, columns].astype(np.int64))
    method = model.make_inference(run.settings.inference, run.settings)
    nll, marginals = [], []
    for part, known in zip(features.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True):
        potentials = model(part)
        posterior = method(potentials)
        nll.append(posterior.log_partition - potentials.log_score(known))
        marginals.append(posterior.marginals)
    return Answers(torch.cat(nll).double().numpy(), torch.cat(marginals).double().numpy())


def _precision(
    answers: Answers, test: Manifest, resamples: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Return the mean average precision with each set of weights of the images."""
    rankings = [
        Ranking(scores, targets)
        for scores, targets in zip(answers.marginals.T, test.targets.T, strict=True)
    ]
    return np.array(
        [np.nanmean([one.average_precision(weights) for one in rankings]) for weights in resamples]
    )


def _rows(
    question: str,
    found: dict[str, dict[str, Answers]],
    test: Manifest,
    worst: str,
    best: str,
    arguments: Any,
) -> frame.Rows:
    """Return a row for each case and model, with the share of the gap that it closes."""
    count = len(test)
    draws = _draw_weights(count, arguments.resamples)
    rows = []
    for model in ("independent", "crf"):
        answers = {name: one[model] for name, one in found.items() if model in one}
        nll = {
            name: np.array([one.nll @ some / count for some in draws])
            for name, one in answers.items()
        }
        precision = {
            name: _precision(one, test, draws[:_MAP_RESAMPLES]) for name, one in answers.items()
        }
        for name in answers:
            row = {
                "question": question,
                "case": name,
                "model": model,
                "nll": float(nll[name][0]),
                "mean_average_precision": float(precision[name][0]),
            }
            if name not in (worst, best):
                row["nll_closed"] = _closed(nll, name, worst, best)
                row["map_closed"] = _closed(precision, name, worst, best)
            rows.append(row)
    return rows


def _closed(drawn: dict[str, NDArray[np.float64]], name: str, worst: str, best: str) -> list[float]:
    """Return the share of the gap between worst and best that a case closes, with its interval."""
    share = (drawn[worst] - drawn[name]) / (drawn[worst] - drawn[best])
    return _interval_of(share)


def tables(results: dict[str, Any]) -> dict[str, str]:
    """Return a table for each question."""
    head = ["learned from", "model", "nll", "gap closed, %", "mAP, %", "gap closed, %"]
    lines: dict[str, list[list[str]]] = {}
    hints = [row for row in results["rows"] if row["question"] == "hints"]
    for row in results["rows"]:
        if row["question"] == "hints":
            continue
        cells = [row["case"], row["model"], f"{row['nll']:.3f}", _interval(row.get("nll_closed"))]
        cells += [frame.percent(row["mean_average_precision"]), _interval(row.get("map_closed"))]
        lines.setdefault(row["question"], []).append(cells)
    made = {question: frame.table(own, head) for question, own in lines.items()}
    if hints:
        head = ["the sources' tags are", "nll", "above the last", "mAP, %", "above the last, %"]
        cells_of = [
            [
                row["case"],
                f"{row['nll']:.3f}",
                frame.gain(row["nll_more"], 1),
                frame.percent(row["mean_average_precision"]),
                frame.gain(row["map_more"]),
            ]
            for row in hints
        ]
        made["hints"] = frame.table(cells_of, head)
    return made


def _interval(closed: list[float] | None) -> str:
    if closed is None:
        return ""
    share, low, high = (100 * value for value in closed)
    return f"{share:.0f} [{low:.0f}, {high:.0f}]"


if __name__ == "__main__":
    main()
