"""Compare the learned matrix with the lecture's and with plain correlation (phi).

python -m experiments.correlations.run [--quick]
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments import frame
from mlcrf.data.manifest import Split
from mlcrf.reports.correlations import load_matrix, phi, rank_agreements, strongest_pairs
from mlcrf.reports.heatmap import Panel, save_heatmap
from mlcrf.reports.label_order import LabelOrder, cluster_order

LECTURE = Path("data/lecture_correlation_24.csv")


def main() -> None:
    """Compare, draw, and keep the figures."""
    arguments = frame.read_options(__doc__, "correlations")
    data = frame.photos(arguments, 24)  # the lecture's
    run = frame.default_run(arguments, data)
    fitted = data.targets[np.array(data.splits) != Split.TEST]
    matrices = {
        "learned": run.crf.pairwise_matrix().double().numpy(),
        "lecture": load_matrix(frame.ROOT / LECTURE, run.labels),
        "phi": phi(fitted),
    }
    rows = []
    for first, second in (("learned", "lecture"), ("learned", "phi"), ("phi", "lecture")):
        rows += [
            {
                "of": first,
                "with": second,
                "over": one.over,
                "pairs": one.pairs,
                "correlation": one.correlation,
                "same_sign": one.same_sign,
            }
            for one in rank_agreements(matrices[first], matrices[second])
        ]
    attract, repel = strongest_pairs(run.crf, run.labels.names, count=8)
    frame.keep(
        arguments,
        rows,
        attractions=[_beside(pair, run.labels.names, matrices) for pair in attract],
        repulsions=[_beside(pair, run.labels.names, matrices) for pair in repel],
        shift=_shift(matrices["learned"], matrices["phi"]),
    )
    panels = [
        Panel.from_matrix("learned couplings", matrices["learned"]),
        Panel.from_matrix("lecture", matrices["lecture"]),
        Panel.from_matrix("phi of training labels", matrices["phi"]),
    ]
    shown = LabelOrder(cluster_order(matrices["learned"]))
    save_heatmap(arguments.out.with_name("matrices.png"), run.labels.names, panels, shown)
    print(tables({"rows": rows})["agreement"])


def _beside(
    pair: tuple[str, str, float], names: tuple[str, ...], matrices: dict[str, Any]
) -> dict[str, Any]:
    """A pair's coupling, with what the others say of it; None where that is not readable."""
    place = names.index(pair[0]), names.index(pair[1])
    others = {name: float(matrices[name][place]) for name in ("lecture", "phi")}
    known = {name: value if np.isfinite(value) else None for name, value in others.items()}
    return {"pair": f"{pair[0]} - {pair[1]}", "learned": pair[2]} | known


def _shift(learned: Any, correlation: Any) -> dict[str, float]:
    """Compare couplings with phi: signs that differ, and the correlation of their sizes."""
    rows, columns = np.triu_indices(len(learned), 1)
    ours, theirs = learned[rows, columns], correlation[rows, columns]
    strong = np.abs(theirs) > 0.1
    return {
        "signs_turned_above_0.1": int((np.sign(ours) != np.sign(theirs))[strong].sum()),
        "pairs_above_0.1": int(strong.sum()),
        "correlation_of_sizes": float(spearmanr(np.abs(ours), np.abs(theirs)).statistic),
    }


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`agreement`: rank correlations; `pairs`: the strongest couplings, beside the others."""
    lines = [
        [
            f"{row['of']}, {row['with']}",
            row["over"],
            str(row["pairs"]),
            f"{row['correlation']:+.3f}",
            str(row["same_sign"]),
        ]
        for row in results["rows"]
    ]
    head = ["matrices", "over", "pairs", "rank correlation", "same sign"]
    made = {"agreement": frame.table(lines, head)}
    if "attractions" in results:
        strongest = [
            [row["pair"], *(_number(row[name]) for name in ("learned", "lecture", "phi"))]
            for row in results["attractions"] + results["repulsions"]
        ]
        made["pairs"] = frame.table(strongest, ["pair", "learned", "lecture", "phi"])
    return made


def _number(value: float | None) -> str:
    return "unreadable" if value is None else f"{value:+.2f}"


if __name__ == "__main__":
    main()
