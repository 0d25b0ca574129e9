"""Beyond pairs of labels: counts, triples, couplings by photo, fits for the measure.

    python -m experiments.beyond_pairwise.run [--quick] [--labels 24] [--heads 'lite0, linear']

All models are fitted on the same log-odds of photos that the heads had not seen: four fifths of im1
to im10000, with penalties and steps chosen on the last fifth. Test photos are scored once.

Figures of other labels and heads are kept.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import frame
from experiments.beyond_pairwise import autoregressive, checks
from experiments.beyond_pairwise.conditional import Conditional, fit_conditional
from experiments.beyond_pairwise.fits import (
    Fit,
    Terms,
    f1_loss,
    fit_terms,
    label_loss,
    strongest_triples,
)
from experiments.beyond_pairwise.label_sets import HalfStates, HigherOrderCrf, Sums, all_triples
from experiments.beyond_pairwise.unaries import Head, Photos, score_photos
from mlcrf.choices import EngineName
from mlcrf.data.manifest import Split
from mlcrf.decoding import (
    count_marginals_from_samples,
    empty_probability,
    maximise_expected_f1,
)
from mlcrf.decoding.counts import count_probabilities
from mlcrf.inference import Exact
from mlcrf.inference.exact.partition import split_labels
from mlcrf.metrics import Predictions, Statistics, gather_statistics
from mlcrf.rules import Rules

HEADS = {
    "lite0, linear": Head("lite0", settings=(("penalties", (0.1,)),)),
    "three, dropout": Head(
        "lite0@288+lite1@320+lite2@352",
        EngineName.OPENVINO_BFLOAT16,
        (
            ("hidden_units", 512),
            ("dropout", 0.6),
            ("epochs", 20),
            ("batch_size", 128),
            ("weight_decay", 1.0),
        ),
    ),
}
SMALL = Head("lite0", settings=(("hidden_units", 8), ("dropout", 0.6), ("epochs", 2)))
CONDITIONAL_LABELS = 14  # as many as sums image by image reach
COMPONENTS = 16
PENALTIES = (
    (1e-3, 1e-4),
    (1e-3, 1e-5),
    (3e-4, 1e-5),
    (3e-4, 1e-6),
)  # of the map of log-odds, of couplings
COUNT_PENALTIES = (1e-3,)
TRIPLES = ((16, 1e-3), (16, 1e-4), (64, 1e-3))
GATES = ((4, 0.1), (16, 1.0))  # rank, decay
DECAYS = (0.3,)  # of autoregressive networks
MEASURES = {
    "nll": ("nll", 1),
    "subset_accuracy": ("subset accuracy, %", 100),
    "hamming": ("wrong, %", 100),
    "mean_average_precision": ("mAP, %", 100),
    "example_f1": ("example F1, %", 100),
}
PARTS = ("rows", "checks", "oracles", "choices", "cost")
KINDS = ("labels", "pairs", "triples", "counts")
_TYPICAL = 1500  # photos by which half-states are chosen
_AT_ONCE = 1000
_FIT_LOST, _SCORE_LOST = 1e-4, 1e-6  # share of the mass of a half that is left out


@dataclass(frozen=True)
class Answer:
    """Statements of a model about photos: all that the measures need."""

    marginals: Tensor
    best: Tensor
    nll: Tensor
    f1_sets: Tensor

    def statistics(self, targets: Tensor) -> Statistics:
        """Counts by photo; labels are chosen at a marginal of one half."""
        parts = (self.marginals.clamp(0, 1), self.best, self.nll)
        marginals, best, nll = (one.numpy() for one in parts)
        predictions = Predictions(marginals.astype(np.float64), best, nll.astype(np.float64))
        return gather_statistics(predictions, targets.numpy().astype(np.int8))

    def f1(self, targets: Tensor) -> NDArray[np.float64]:
        """F1 of the chosen set of each photo, 1 if both are empty."""
        shared = (self.f1_sets * targets).sum(1).double()
        both = (self.f1_sets.sum(1) + targets.sum(1)).double()
        return torch.where(both > 0, 2 * shared / both.clamp(min=1), 1.0).numpy()


@dataclass
class Study:
    """The photos of one set of labels and one kind of head, and the half-states of its sums."""

    fit: Photos
    held_out: Photos
    test: Photos
    replicates: int
    most_steps: int
    epochs: int
    every: HalfStates = field(init=False)

    def __post_init__(self) -> None:
        strength = np.nan_to_num(np.corrcoef(self.fit.targets.numpy().T))
        parts = split_labels(torch.from_numpy(strength), Rules())
        precision = torch.float64 if self.num_labels < 16 else torch.float32
        self.every = dataclasses.replace(HalfStates.every(parts), precision=precision)

    @property
    def num_labels(self) -> int:
        """L."""
        return self.fit.targets.shape[1]

    @torch.no_grad()
    def likely(self, crf: HigherOrderCrf, leave_out: float) -> HalfStates:
        """The half-states that carry nearly all mass of typical photos; all, of few labels."""
        if self.num_labels < 16:
            return self.every
        return self.every.likely(Sums(crf, self.every), self.fit.odds[:_TYPICAL], leave_out)

    def fitted(self, start: HigherOrderCrf, states: HalfStates, terms: Terms) -> Fit:
        """A fit on the photos to fit on, with its loss on those held out."""
        terms = dataclasses.replace(terms, most_steps=min(terms.most_steps, self.most_steps))
        return fit_terms(start, self.fit, states, terms, self.held_out)

    @torch.no_grad()
    def answer(self, crf: HigherOrderCrf) -> Answer:
        """The answers of a CRF on the test photos."""
        sums = Sums(crf, self.likely(crf, _SCORE_LOST))
        parts = []
        for at in range(0, len(self.test), _AT_ONCE):
            odds, targets = (one[at : at + _AT_ONCE] for one in (self.test.odds, self.test.targets))
            weights = sums.weigh(odds)
            counts = weights.count_marginals()
            nll = weights.log_partition() - crf.log_score(odds, targets)
            sets, _ = maximise_expected_f1(counts, empty_probability(counts))
            parts.append((counts.sum(-1), weights.best(), nll, sets))
        return Answer(*(torch.cat(one) for one in zip(*parts, strict=True)))

    @torch.no_grad()
    def drawn(self, crf: HigherOrderCrf, photos: Photos) -> Iterator[Tensor]:
        """Label sets of photos, drawn from a CRF as often as replicates are wanted."""
        sums = Sums(crf, self.likely(crf, _FIT_LOST))
        generator = torch.Generator().manual_seed(0)
        each = [one.sample(self.replicates, generator) for one in sums.batches(photos.odds)]
        return iter(torch.cat(each, 1))

    @torch.no_grad()
    def oracles(self, crf: HigherOrderCrf) -> dict[str, Answer]:
        """Answers of a CRF that knows the number of labels, or all other labels, of each photo."""
        sums = Sums(crf, self.likely(crf, _SCORE_LOST))
        targets = self.test.targets
        counts = torch.cat([one.count_marginals() for one in sums.batches(self.test.odds)])
        size = targets.sum(1)
        of_size = count_probabilities(counts).gather(1, size[:, None])
        at = size[:, None, None].expand(-1, self.num_labels, 1)
        known = torch.where(size[:, None] > 0, counts.gather(2, at)[..., 0] / of_size, 0.0)
        found = {"the number of labels": known}
        others = torch.zeros(targets.shape, dtype=torch.float64)
        for label in range(self.num_labels):
            scores = []
            for state in (0, 1):
                y = targets.clone()
                y[:, label] = state
                scores.append(crf.log_score(self.test.odds, y))
            others[:, label] = (scores[1] - scores[0]).sigmoid()
        found["all other labels"] = others
        return {
            name: Answer(p, (p > 0.5).long(), torch.zeros(len(p)), (p > 0.5).long())
            for name, p in found.items()
        }


def main() -> None:
    """Fit, choose and score, and keep the figures."""
    more = {
        "labels": {"type": int, "nargs": "+", "default": [24, 14]},
        "heads": {"nargs": "+", "choices": list(HEADS), "default": list(HEADS)},
    }
    arguments = frame.read_options(__doc__, "beyond_pairwise", **more)
    results: dict[str, frame.Rows] = {part: [] for part in PARTS}
    if arguments.out.exists():
        kept = json.loads(arguments.out.read_text(encoding="utf-8"))
        results = {part: kept[part] for part in PARTS}
    for labels in [14] if arguments.quick else arguments.labels:
        data = frame.photos(arguments, labels)
        for name in arguments.heads:
            began, head = process_time(), HEADS[name]
            if arguments.quick and "dropout" in name:
                head = SMALL
            folder = arguments.runs / "beyond_pairwise"
            photos = score_photos(head, data, COMPONENTS, folder / f"{head.backbone}-{labels}.pt")
            study = make_study(photos, quick=arguments.quick)
            found = compare_models(study, arguments.resamples)
            if name == "lite0, linear":
                found["rows"].append(trained_by_command(arguments, data, study, found["pairwise"]))
            about = {"labels": labels, "head": name}
            found["cost"] = [{"cpu_seconds": process_time() - began} | sizes(study)]
            for part in PARTS:
                others = [row for row in results[part] if about != {key: row[key] for key in about}]
                results[part] = others + [about | row for row in found[part]]
            frame.keep(arguments, results["rows"], **{part: results[part] for part in PARTS[1:]})
            print(name, labels, f"{found['cost'][0]['cpu_seconds']:.0f} CPU s", flush=True)
    print("\n\n".join(tables(results).values()))


def sizes(study: Study) -> dict[str, int]:
    """Numbers of photos."""
    parts = {"fit": study.fit, "held_out": study.held_out, "test": study.test}
    return {name: len(photos) for name, photos in parts.items()}


def make_study(photos: dict[str, Photos], *, quick: bool) -> Study:
    """Cut the photos to learn from in those to fit on and a fifth that is held out."""
    seen = photos["seen"]
    order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))
    held_out = torch.zeros(len(seen), dtype=torch.bool)
    held_out[order[: len(seen) // 5]] = True
    limits = {"replicates": 10, "most_steps": 5, "epochs": 1} if quick else {}
    limits = limits or {"replicates": 50, "most_steps": 60, "epochs": 30}
    return Study(seen.rows(~held_out), seen.rows(held_out), photos["test"], **limits)


def compare_models(study: Study, resamples: int) -> dict[str, Any]:
    """Fit all models, then score them on the test photos."""
    began = process_time()

    def say(what: str) -> None:
        print(f"{what}: {process_time() - began:.0f} CPU s", flush=True)

    choices: frame.Rows = []
    independent, pairwise, penalties, states = fit_pairs(study, choices)
    models: dict[str, HigherOrderCrf] = {"independent": independent, "pairwise": pairwise}

    def best_of(system: str, tried: list[tuple[str, Fit]]) -> HigherOrderCrf:
        for settings, fit in tried:
            choices.append(
                {
                    "system": system,
                    "settings": settings,
                    "held_out": fit.held_out[-1],
                    "gradients": fit.gradients,
                }
            )
        return min(tried, key=lambda one: one[1].held_out[-1])[1].crf

    def counted(start: HigherOrderCrf, more: dict[str, float]) -> list[tuple[str, Fit]]:
        return [
            (f"counts {one:g}", study.fitted(start, states, Terms(more | {"counts": one})))
            for one in COUNT_PENALTIES
        ]

    say("pairs")
    models["+ counts"] = best_of("+ counts", counted(pairwise, penalties))
    every, tried = all_triples(study.num_labels), []
    for number, penalty in TRIPLES:
        terms = strongest_triples(pairwise, every, study.fit, states, number)
        more = penalties | {"triples": penalty}
        fit = study.fitted(pairwise.with_terms(terms), states, Terms(more))
        tried.append((f"{number} triples, {penalty:g}", fit))
    models["+ triples"] = best_of("+ triples", tried)
    chosen = min(range(len(tried)), key=lambda at: tried[at][1].held_out[-1])
    more = penalties | {"triples": TRIPLES[chosen][1]}
    both = counted(models["+ triples"], more)
    models["+ counts and triples"] = best_of("+ counts and triples", both)
    say("triples")
    for title, loss, steps in (
        ("fitted for single labels", label_loss, 15),
        ("fitted for expected F1", f1_loss, 8),
    ):
        models[title] = early(study, pairwise, states, Terms(penalties, loss, steps), choices)
    say("measures")
    answers = {name: study.answer(crf) for name, crf in models.items()}
    say("answers")
    if study.num_labels <= CONDITIONAL_LABELS:
        answers["couplings by photo"] = answer_conditional(study, pairwise, choices)
    answers["autoregressive networks"] = answer_networks(study, choices)
    say("networks")
    rows = score(answers, study.test.targets, resamples)
    say("scores")
    compared = ("independent", "pairwise", "+ counts", "+ triples")
    found = [
        {"system": name, "photos": which}
        | {"kinds": checks.compare(study.drawn(models[name], photos), photos.targets)}
        for which, photos in (("held out", study.held_out), ("test", study.test))
        for name in compared
    ]
    say("checks")
    known = {"nothing": answers["pairwise"]} | study.oracles(pairwise)
    oracles = []
    for name, one in known.items():
        measures = one.statistics(study.test.targets).measures()
        figures = {key: getattr(measures, key) for key in ("hamming", "mean_average_precision")}
        oracles.append({"known": name} | figures)
    return {
        "rows": rows,
        "checks": found,
        "oracles": oracles,
        "choices": choices,
        "pairwise": answers["pairwise"],
    }


def fit_pairs(
    study: Study, choices: frame.Rows
) -> tuple[HigherOrderCrf, HigherOrderCrf, dict[str, float], HalfStates]:
    """Fit independent labels and the pairwise CRF; return the latter's penalties and states too."""
    plain = HigherOrderCrf(study.fit.odds)
    free = {"weight": PENALTIES[0][0], "bias": 0.0}
    few = study.likely(plain, _FIT_LOST)
    first = fit_terms(
        plain,
        study.fit.rows(torch.arange(len(study.fit)) < _TYPICAL),
        few,
        Terms({"weight": 1e-2, "bias": 0.0, "pairwise": 1e-3}, most_steps=study.most_steps),
    ).crf
    states = study.likely(first, _FIT_LOST)
    independent = study.fitted(plain, few, Terms(free))
    best: tuple[Fit, dict[str, float]] | None = None
    start = first
    for weight, pairwise in PENALTIES:
        penalties = {"weight": weight, "bias": 0.0, "pairwise": pairwise}
        fit = study.fitted(start, states, Terms(penalties))
        start = fit.crf
        choices.append(
            {
                "system": "pairwise",
                "settings": f"map {weight:g}, couplings {pairwise:g}",
                "held_out": fit.held_out[-1],
                "gradients": fit.gradients,
            }
        )
        if best is None or fit.held_out[-1] < best[0].held_out[-1]:
            best = fit, penalties
    assert best is not None
    return independent.crf, best[0].crf, best[1], states


def early(
    study: Study, start: HigherOrderCrf, states: HalfStates, terms: Terms, choices: frame.Rows
) -> HigherOrderCrf:
    """Fit as many steps as photos held out like best."""
    steps = min(terms.most_steps, study.most_steps)
    whole = study.fitted(start, states, terms)
    taken = whole.best_step
    choices.append(
        {
            "system": terms.loss.__name__,
            "settings": f"{taken} of {steps} steps at most",
            "held_out": whole.held_out[taken],
            "start": whole.held_out[0],
            "gradients": whole.gradients,
        }
    )
    return whole.best


def answer_conditional(study: Study, base: HigherOrderCrf, choices: frame.Rows) -> Answer:
    """Choose rank and decay, and answer with couplings that vary by photo."""
    best: Conditional | None = None
    epochs = min(4, study.epochs)
    for rank, decay in GATES[: 1 if study.epochs == 1 else None]:
        fit = fit_conditional(
            base, study.fit, study.held_out, rank=rank, decay=decay, epochs=epochs
        )
        choices.append(
            {
                "system": "couplings by photo",
                "settings": f"rank {rank}, decay {decay:g}",
                "held_out": min(fit.held_out),
                "start": fit.held_out[0],
            }
        )
        if best is None or min(fit.held_out) < min(best.held_out):
            best = fit
    assert best is not None
    parts = []
    exact = Exact()
    with torch.no_grad():
        for at in range(0, len(study.test), _AT_ONCE):
            wanted = torch.zeros(len(study.test), dtype=torch.bool)
            wanted[at : at + _AT_ONCE] = True
            part = study.test.rows(wanted)
            potentials = best.potentials(part)
            posterior = exact(potentials)
            nll = posterior.log_partition - potentials.log_score(part.targets)
            counts = exact.count_marginals(potentials)
            sets, _ = maximise_expected_f1(counts, empty_probability(counts))
            found = posterior.marginals.double(), exact.map_states(potentials), nll.double(), sets
            parts.append(found)
    return Answer(*(torch.cat(one) for one in zip(*parts, strict=True)))


def answer_networks(study: Study, choices: frame.Rows) -> Answer:
    """Answer by autoregressive networks, whose terms have no limit; from drawn sets."""
    orders, count = (1, 4) if study.epochs == 1 else (4, 12)
    best: tuple[float, list[autoregressive.AutoregressiveNetwork]] | None = None
    for decay in DECAYS[: 1 if study.epochs == 1 else None]:
        networks = [
            autoregressive.fit_order(
                study.fit, study.held_out, seed=seed, decay=decay, epochs=study.epochs
            )
            for seed in range(orders)
        ]
        held_out = study.held_out
        each = autoregressive.mixture_log_prob(networks, held_out.odds, held_out.targets)
        lost = -float(each.mean())
        settings = f"{orders} orders, decay {decay:g}"
        choices.append(
            {"system": "autoregressive networks", "settings": settings, "held_out": lost}
        )
        if best is None or lost < best[0]:
            best = lost, networks
    assert best is not None
    networks, parts = best[1], []
    generator = torch.Generator().manual_seed(0)
    for odds, targets in zip(
        study.test.odds.split(_AT_ONCE), study.test.targets.split(_AT_ONCE), strict=True
    ):
        pairs = [autoregressive.draw(one, odds, count, generator) for one in networks]
        drawn, probabilities = (torch.cat(one) for one in zip(*pairs, strict=True))
        marginals = probabilities.double().mean(0)
        many = drawn.flatten(0, 1)
        log_p = autoregressive.mixture_log_prob(networks, odds.repeat(len(drawn), 1), many)
        where = log_p.view(len(drawn), -1).argmax(0)
        top = drawn[where, torch.arange(len(odds))].long()
        counts = count_marginals_from_samples(drawn.long())
        sets, _ = maximise_expected_f1(counts, empty_probability(counts))
        nll = -autoregressive.mixture_log_prob(networks, odds, targets)
        parts.append((marginals, top, nll, sets))
    return Answer(*(torch.cat(one) for one in zip(*parts, strict=True)))


def score(
    answers: dict[str, Answer], targets: Tensor, resamples: int, reference: str = "pairwise"
) -> frame.Rows:
    """Measures of each model, and differences to the pairwise CRF by a paired bootstrap."""
    columns, ranked = {}, {}
    for name, one in answers.items():
        statistics = one.statistics(targets)
        wrong = statistics.by_image["wrong_per_image"] / targets.shape[1]
        right = statistics.by_image["subset_accuracy"]
        columns[name] = np.stack([statistics.nll, right, wrong, one.f1(targets)], 1)
        ranked[name] = statistics
    names = ("nll", "subset_accuracy", "hamming", "example_f1")
    rng = np.random.default_rng(0)

    def measure(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        found = {}
        for name, values in columns.items():
            precision = np.nanmean(ranked[name].average_precisions(weights))
            found[name] = np.append(weights @ values / weights.sum(), precision)
        return found

    value = measure(np.ones(len(targets)))
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in columns}
    for _ in range(resamples):
        chosen = rng.integers(len(targets), size=len(targets))
        counts = np.bincount(chosen, minlength=len(targets)).astype(np.float64)
        again = measure(counts)
        for name in columns:
            drawn[name].append(again[name] - again[reference])
    rows = []
    for name, values in value.items():
        low, high = np.percentile(np.stack(drawn[name]), [2.5, 97.5], axis=0)
        keys = (*names, "mean_average_precision")
        gain = values - value[reference]
        triples = zip(gain.tolist(), low.tolist(), high.tolist(), strict=True)
        rows.append(
            {
                "system": name,
                "measures": dict(zip(keys, values.tolist(), strict=True)),
                "difference": dict(zip(keys, triples, strict=True)),
            }
        )
    return rows


def trained_by_command(arguments: Any, data: Any, study: Study, pairwise: Answer) -> dict[str, Any]:
    """The CRF of `mlcrf train` with default settings, learned jointly, beside the pairwise CRF."""
    run = frame.default_run(arguments, data)
    features = frame.features_of(run, data.part(Split.TEST))
    exact, parts = run.make_inference(), []
    with torch.no_grad():
        for at in range(0, len(features), _AT_ONCE):
            potentials = run.crf(features[at : at + _AT_ONCE])
            targets = study.test.targets[at : at + _AT_ONCE]
            posterior = exact(potentials)
            counts = exact.count_marginals(potentials)
            sets, _ = maximise_expected_f1(counts, empty_probability(counts))
            nll = posterior.log_partition - potentials.log_score(targets)
            found = posterior.marginals.double(), exact.map_states(potentials), nll.double(), sets
            parts.append(found)
    answer = Answer(*(torch.cat(one) for one in zip(*parts, strict=True)))
    both = {"pairwise": pairwise, "pairwise, mlcrf train": answer}
    return score(both, study.test.targets, arguments.resamples)[1]


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`models-14` and others by labels; `checks`, `oracles` and `choices` of all."""
    found = {}
    for labels in sorted({row["labels"] for row in results["rows"]}):
        lines = []
        for row in results["rows"]:
            if row["labels"] != labels:
                continue
            cells = [row["head"], row["system"]]
            for name, (_, factor) in MEASURES.items():
                value = factor * row["measures"][name]
                cells.append(f"{value:.3f}" if factor == 1 else f"{value:.2f}")
                if row["system"] == "pairwise":
                    cells.append("")
                elif factor == 1:
                    mean, low, high = row["difference"][name]
                    cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
                else:
                    cells.append(frame.gain(row["difference"][name], factor))
            lines.append(cells)
        heads = [one for title, _ in MEASURES.values() for one in (title, "difference [95 %]")]
        found[f"models-{labels}"] = frame.table(lines, ["head", "model", *heads])
    lines = []
    for row in results["checks"]:
        cells = [str(row["labels"]), row["head"], row["photos"], row["system"]]
        for kind in KINDS:
            one = row["kinds"][kind]
            cells.append(f"{one['mean_square']:.2f} (p {one['p']:.2f})")
        cells.append(f"{100 * row['kinds']['triples']['far']:.1f}")
        lines.append(cells)
    head = ["labels", "head", "photos", "model", *KINDS, "triples beyond 3, %"]
    found["checks"] = frame.table(lines, head)
    lines = [
        [
            str(row["labels"]),
            row["head"],
            row["known"],
            frame.percent(row["hamming"]),
            frame.percent(row["mean_average_precision"]),
        ]
        for row in results["oracles"]
    ]
    found["oracles"] = frame.table(lines, ["labels", "head", "known", "wrong, %", "mAP, %"])
    lines = [
        [
            str(row["labels"]),
            row["head"],
            row["system"],
            row["settings"],
            f"{row['held_out']:.4f}",
        ]
        for row in results["choices"]
    ]
    found["choices"] = frame.table(lines, ["labels", "head", "model", "settings", "held-out loss"])
    return found


if __name__ == "__main__":
    main()
