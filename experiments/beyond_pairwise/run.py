"""Beyond pairs of labels: counts, triples, couplings by photo, fits for the measure.

    python -m experiments.beyond_pairwise.run [--quick] [--labels 24] [--heads 'lite0, linear']

All models are fitted on the same log-odds of photos that the heads had not seen: four fifths of im1
to im10000, with penalties and steps chosen on the last fifth. Test photos are scored once.

Figures of other labels and heads are kept.
"""

from time import process_time
from typing import Any

from experiments import frame
from experiments.beyond_pairwise import checks
from experiments.beyond_pairwise.models import (
    CONDITIONAL_LABELS,
    answer_conditional,
    answer_networks,
    fit_models,
)
from experiments.beyond_pairwise.scores import score, tables
from experiments.beyond_pairwise.study import Answer, Study, answer_exactly, make_study
from experiments.beyond_pairwise.unaries import Head, score_photos
from mlcrf.choices import EngineName
from mlcrf.data.manifest import Split

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
COMPONENTS = 16
PARTS = ("rows", "checks", "oracles", "choices", "cost")


def main() -> None:
    """Fit, choose and score, and keep the figures."""
    more = {
        "labels": {"type": int, "nargs": "+", "default": [24, 14]},
        "heads": {"nargs": "+", "choices": list(HEADS), "default": list(HEADS)},
    }
    arguments = frame.read_options(__doc__, "beyond_pairwise", **more)
    kept = frame.earlier(arguments)
    results: dict[str, frame.Rows] = {part: kept[part] if kept else [] for part in PARTS}
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


def compare_models(study: Study, resamples: int) -> dict[str, Any]:
    """Fit all models, then score them on the test photos."""
    began = process_time()

    def say(what: str) -> None:
        print(f"{what}: {process_time() - began:.0f} CPU s", flush=True)

    choices: frame.Rows = []
    models = fit_models(study, choices, say)
    pairwise = models["pairwise"]
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


def trained_by_command(arguments: Any, data: Any, study: Study, pairwise: Answer) -> dict[str, Any]:
    """The CRF of `mlcrf train` with default settings, learned jointly, beside the pairwise CRF."""
    run = frame.default_run(arguments, data)
    features = frame.features_of(run, data.part(Split.TEST))
    batches = zip(features.split(1000), study.test.targets.split(1000), strict=True)
    potentials = ((run.crf(part), targets) for part, targets in batches)
    answer = answer_exactly(run.make_inference(), potentials)
    both = {"pairwise": pairwise, "pairwise, mlcrf train": answer}
    return score(both, study.test.targets, arguments.resamples)[1]


if __name__ == "__main__":
    main()
