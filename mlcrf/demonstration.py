"""End-to-end demo: train and evaluate on synthetic scenes with known couplings."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlcrf import atomic
from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.choices import Finetune
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers import read_dataset
from mlcrf.errors import RunError
from mlcrf.evaluation import Evaluation, evaluate
from mlcrf.images import list_images
from mlcrf.prediction import PredictionWriter, Tagger
from mlcrf.reports.card import save_card
from mlcrf.reports.correlations import cooccurrence, load_matrix
from mlcrf.reports.heatmap import Panel, save_heatmap
from mlcrf.reports.label_order import LabelOrder, cluster_order
from mlcrf.reports.score_tables import format_evaluation
from mlcrf.reports.text import format_table
from mlcrf.synthetic.dataset import COUPLINGS_TABLE, IMAGES, make_dataset
from mlcrf.training.extraction import Environment
from mlcrf.training.progress import without_gradients
from mlcrf.training.run import train

_MARKER = ".mlcrf-demo"
NUM_IMAGES = 3000
STRONG_COUPLING = 0.5
MIN_COOCCURRENCES = 30


@dataclass(frozen=True)
class Recovery:
    """Agreement of learned couplings with the planted ones.

    Attributes:
        strong: number of planted couplings of size at least 0.5 whose labels occur together at
            least 30 times in the training and validation images.
        recovered: number of strong couplings with the right sign in the learned matrix.
    """

    strong: int
    recovered: int


@dataclass(frozen=True)
class Demo:
    """Result of a demo."""

    out: Path
    evaluation: Evaluation
    recovery: Recovery
    made: dict[str, Path]
    seconds: float


def run_demo(
    out: Path, *, seed: int = 0, num_images: int = NUM_IMAGES, log: Callable[[str], None]
) -> Demo:
    """Draw, train, evaluate, predict and plot below `out`, replacing an earlier demo.

    Raises:
        RunError: `out` exists and is not an earlier demo.
    """
    began = perf_counter()
    if out.exists():
        if not (out / _MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out}: exists and is not an earlier demo; choose another --out")
        shutil.rmtree(out)
    atomic.write_text(out / _MARKER, "made by mlcrf demo; replaced by the next one\n")
    cache = out / "cache"
    log(f"drawing {num_images} scenes")
    table = make_dataset(out / "data", seed=seed, num_images=num_images)
    manifest = read_dataset(table)
    settings = TrainSettings(
        backbone="tiny",
        finetune=Finetune.ALL,
        epochs=8,
        learning_rate=5e-3,
        seed=seed,
        pairwise_penalties=(1e-4, 1e-3),
    )
    report = train(
        manifest,
        out / "run",
        settings,
        Environment(cache_dir=cache),
        log=without_gradients(log),
    )
    save_card(report)
    run = report.run
    log("evaluating on the test split")
    extractor = FeatureExtractor(run.defer_backbone(), cache_dir=cache)
    evaluation = evaluate(
        run, manifest.part(Split.TEST), extractor, split=Split.TEST.value, seed=seed
    )
    log("tagging the folder of scenes")
    tags = out / "tags.csv"
    with PredictionWriter(tags, run.labels) as writer:
        for prediction in Tagger(run, cache_dir=cache).predict(
            list_images([out / "data" / IMAGES])
        ):
            writer.write(prediction)
    learned = run.crf.pairwise_matrix().double().numpy()
    planted = load_matrix(out / "data" / COUPLINGS_TABLE, run.labels)
    heatmap = out / "heatmap.png"
    panels = [
        Panel.from_matrix("learned couplings", learned),
        Panel.from_matrix("planted couplings", planted),
    ]
    save_heatmap(heatmap, run.labels.names, panels, LabelOrder(cluster_order(planted)))
    return Demo(
        out,
        evaluation,
        count_recovered(learned, planted, manifest),
        {"data": table, "run": run.path, "tags": tags, "heatmap": heatmap},
        perf_counter() - began,
    )


def count_recovered(
    learned: NDArray[np.float64], planted: NDArray[np.float64], manifest: Manifest
) -> Recovery:
    """Compare signs of strong planted couplings whose labels occur together often enough."""
    fitted = np.array([split is not Split.TEST for split in manifest.splits or ()])
    met = cooccurrence(manifest.targets[fitted]) >= MIN_COOCCURRENCES
    strong = np.triu((np.abs(planted) >= STRONG_COUPLING) & met, 1)
    right = strong & (np.sign(learned) == np.sign(planted))
    return Recovery(int(strong.sum()), int(right.sum()))


def format_demo(demo: Demo) -> str:
    """Return the table of scores and the paths of all output."""
    rows = [[name, str(path)] for name, path in demo.made.items()]
    found = demo.recovery
    return "\n".join(
        [
            format_evaluation(demo.evaluation),
            f"planted couplings whose sign was found: {found.recovered} of {found.strong} "
            f"(size at least {STRONG_COUPLING}, "
            f"labels together in at least {MIN_COOCCURRENCES} images)",
            "",
            format_table(["made", "where"], rows),
            f"done in {demo.seconds:.0f} s: {demo.out}",
        ]
    )


def demo_record(demo: Demo) -> dict[str, Any]:
    """Return the result as JSON-compatible values."""
    return {
        "out": str(demo.out),
        "seconds": demo.seconds,
        "made": {name: str(path) for name, path in demo.made.items()},
        "models": {name: asdict(scores) for name, scores in demo.evaluation.models.items()},
        "difference": demo.evaluation.difference,
        "strong_couplings": demo.recovery.strong,
        "recovered": demo.recovery.recovered,
    }
