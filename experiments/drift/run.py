"""Is a drift found, of which kind, and how often is one found where there is none?

python -m experiments.drift.run [--quick] [--data ANY TABLE]
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments import frame
from mlcrf.checkpoint import Run
from mlcrf.drift import Sample, Score, compare_samples
from mlcrf.drift.comparing import describe

RATE = 0.05
PERMUTATIONS = 199
SIZES = (500, 2000)  # compared images
SHUFFLED = (0.25, 0.5, 1.0)  # share of the images whose labels are exchanged
_ALIKE = 10  # images among which a label is exchanged


def taken(sample: Sample, rows: NDArray[np.int64]) -> Sample:
    """Some of the images."""
    assert sample.surprise is not None and sample.likeliest is not None
    return Sample(
        sample.marginals[rows], sample.targets[rows], sample.surprise[rows], sample.likeliest[rows]
    )


def shuffled(
    run: Run, sample: Sample, features: torch.Tensor, share: float, rng: np.random.Generator
) -> Sample:
    """The images with each label exchanged among ten whose probability of it is nearly the same.

    So each label is as frequent as before, also given the image, but for pairs only what the images
    say is left.
    """
    targets = sample.targets.copy()
    for label in range(targets.shape[1]):
        chosen = np.flatnonzero(rng.random(len(targets)) < share)
        ranked = chosen[np.argsort(sample.marginals[chosen, label], kind="stable")]
        for start in range(0, len(ranked), _ALIKE):
            alike = ranked[start : start + _ALIKE]
            targets[alike, label] = targets[rng.permutation(alike), label]
    with torch.no_grad():
        potentials = run.crf(features)
        # the partition is that of the images, which have not changed
        whole = torch.from_numpy(targets.astype(np.int64))
        score = potentials.log_score(whole).double().numpy()
        before = potentials.log_score(torch.from_numpy(sample.targets.astype(np.int64)))
    assert sample.surprise is not None
    return replace(
        sample, targets=targets, surprise=sample.surprise + before.double().numpy() - score
    )


def row_of(found: list[dict[Score, bool]], **about: Any) -> dict[str, Any]:
    """Return the share of times that each score, and any of them, reported a drift."""
    shares = {score.value: float(np.mean([one[score] for one in found])) for score in Score}
    return about | {
        "repeats": len(found),
        **shares,
        "any": float(np.mean([any(one.values()) for one in found])),
    }


def compared(
    run: Run, reference: Sample, new: Sample, seed: int, *, with_targets: bool
) -> dict[Score, bool]:
    """The scores that report a drift."""
    verdicts = compare_samples(
        reference,
        new,
        run.labels,
        with_targets=with_targets,
        rate=RATE,
        permutations=PERMUTATIONS,
        seed=seed,
    )
    return {one.score: one.found for one in verdicts}


def main() -> None:
    """Describe each photo once, compare often, and keep the figures."""
    more = {
        "photos": {"type": int, "default": 6000},
        "reference": {"type": int, "default": 2000},
        "repeats": {"type": int, "default": 60},
        "shifted": {"type": int, "default": 600},
    }
    arguments = frame.read_options(__doc__, "drift", **more)
    if arguments.quick:
        arguments.reference, arguments.repeats, arguments.shifted = 100, 3, 30
    sizes = (60,) if arguments.quick else SIZES
    data = frame.photos(arguments)
    run = frame.default_run(arguments, data)
    test = frame.some_test(arguments, run, data)
    features = frame.features_of(run, test).numpy()
    pool = describe(run, features, test.targets)
    rng = np.random.default_rng(0)
    rows: frame.Rows = []

    def keep() -> None:
        frame.keep(arguments, rows, images=len(test), labels=len(run.labels), run=run.digest)

    for size in sizes:
        for share in (0.0, *SHUFFLED):
            repeats = arguments.repeats if share == 0 else max(3, arguments.repeats // 4)
            found: dict[bool, list[dict[Score, bool]]] = {False: [], True: []}
            for repeat in range(repeats):
                order = rng.permutation(len(test))[: arguments.reference + size]
                reference = taken(pool, order[: arguments.reference])
                chosen = order[arguments.reference :]
                new = taken(pool, chosen)
                if share:
                    new = shuffled(run, new, torch.from_numpy(features[chosen]), share, rng)
                for with_targets in (True,) if share else (True, False):
                    said = compared(run, reference, new, repeat, with_targets=with_targets)
                    found[with_targets].append(said)
            for with_targets, one in found.items():
                if one:
                    about = {"images": size, "labels_known": with_targets, "shuffled": share}
                    rows.append(row_of(one, **about))
            keep()
    few = test.rows(np.arange(min(arguments.shifted, len(test))))
    others = np.arange(len(few), len(test))
    for name, change in {} if test.feature_names else frame.SHIFTS.items():
        changed = frame.shifted(run, few, change).numpy()
        new = describe(run, changed, few.targets)
        found_shift = []
        for repeat in range(max(3, arguments.repeats // 10)):
            reference = taken(pool, rng.permutation(others)[: arguments.reference])
            found_shift.append(compared(run, reference, new, repeat, with_targets=False))
        rows.append(row_of(found_shift, images=len(few), labels_known=False, shift=name))
        keep()
    print(tables({"rows": rows})["drift"])


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`drift`: how often each score reports a drift, in %, by kind of drift."""
    lines = []
    for row in results["rows"]:
        if "shift" in row:
            what = row["shift"]
        elif row["shuffled"]:
            what = f"pairs alone, {100 * row['shuffled']:.0f} % of images"
        else:
            what = "none"
        shares = [f"{100 * row[name]:.0f}" for name in (*Score, "any")]
        known = "images and labels" if row["labels_known"] else "images"
        lines.append([what, f"{row['images']}", known, *shares, f"{row['repeats']}"])
    head = ["drift", "images", "compared", "labels, %", "pairs, %", "joint, %", "any, %", "times"]
    return {"drift": frame.table(lines, head)}


if __name__ == "__main__":
    main()
