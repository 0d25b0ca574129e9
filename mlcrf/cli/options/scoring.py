"""Options of how runs are scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlcrf.choices import InferenceName, ScoredSplit
from mlcrf.cli import console
from mlcrf.cli.options.data import (
    AnySplit,
    LabelSetOfRun,
    LimitData,
    ReadingOptions,
    parse_source,
    show_reading,
)
from mlcrf.cli.options.decision import CoverageOptions, DecisionOptions
from mlcrf.cli.options.grouping import DECISION
from mlcrf.cli.options.known import HintTables, read_evidence
from mlcrf.cli.options.runs import find_both, load_run
from mlcrf.cli.options.runtime import RuntimeOptions

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.comparison import Comparison
    from mlcrf.data.manifest import Manifest
    from mlcrf.labels import LabelSpace

Measures = Annotated[
    str,
    typer.Option(
        metavar="main|all|NAME,...",
        help="Measures in the printed table: `all` adds those that papers report; or names and "
        "symbols, such as CP,CR,CF1,OP,OR,OF1. --out and --json have all.",
    ),
]


@dataclass(frozen=True)
class EvaluationOptions:
    """Images that a run is scored on, and settings of the scores."""

    split: AnySplit = ScoredSplit.TEST
    label_set: LabelSetOfRun = None
    limit: LimitData = None
    inference: Annotated[
        InferenceName | None,
        typer.Option(help="Override the run's inference method.", rich_help_panel=DECISION),
    ] = None
    max_exact_labels: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=40,
            help="Largest number of labels for exact inference.",
            rich_help_panel=DECISION,
        ),
    ] = None
    at_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also measure each image's K best labels: mean precision and recall of a label, "
            "F1 of the means, labels found.",
        ),
    ] = None
    hints: HintTables = None
    resamples: Annotated[int, typer.Option(min=1, help="Number of bootstrap resamples.")] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0

    def load(
        self,
        run: Path,
        data: str,
        reading: ReadingOptions,
        command: str,
        others: "Sequence[Run]" = (),
    ) -> "tuple[Run, Manifest]":
        """Load a run, and the images to score it on; print how they were understood.

        Args:
            others: runs that are to be compared with it, whose features are read, too.
        """
        find_both(run, data, command)
        trained = load_run(run)
        return trained, self.read([trained], data, reading, others)

    def read(
        self,
        runs: "Sequence[Run]",
        data: str,
        reading: ReadingOptions,
        others: "Sequence[Run]" = (),
    ) -> "Manifest":
        """Read the images to score runs on; print how they were understood.

        All labels of the data are read if the runs have different ones. Of a table of numbers the
        features of all runs are read, and of further ones.
        """
        import numpy as np

        from mlcrf.data.hint_tables import parse_hints, require_other_table
        from mlcrf.data.readers import read_dataset
        from mlcrf.data.splits import take_split

        first = runs[0]
        labels: LabelSpace | None = first.labels
        label_set = self.label_set or first.label_set
        if any(set(run.labels) != set(first.labels) for run in runs):
            labels, label_set = None, self.label_set or 38
        everyone = [*runs, *others]
        features = dict.fromkeys(name for run in everyone for name in run.backbone_spec.features)
        how = reading.make(label_set, labels, run_features=tuple(features))
        place = parse_source(data)
        require_other_table(parse_hints(self.hints or []), [place])
        manifest = read_dataset(place, how)
        for run in everyone:
            run.take_input(manifest)
        show_reading(manifest)
        if manifest.splits is None and self.split != "all":
            _require_unseen(runs, manifest)
        manifest = take_split(manifest, self.split)
        return manifest.rows(np.arange(len(manifest))[: self.limit])

    def compare(
        self,
        runs: "Sequence[Run]",
        manifest: "Manifest",
        reading: ReadingOptions,
        decision: DecisionOptions,
        runtime: RuntimeOptions,
        families: CoverageOptions,
    ) -> "Comparison":
        """Compare runs on the same images; see `mlcrf.comparison.compare`."""
        from mlcrf.comparison import compare

        hints = [read_evidence(run, self.hints, reading) for run in runs]
        with console.bar("features", then="scores") as progress:
            return compare(
                runs,
                manifest,
                [runtime.make_extractor(run) for run in runs],
                split=self.split,
                inference=self.inference,
                max_exact_labels=self.max_exact_labels,
                decoder=decision.make_decoder(runs[0].labels),
                at_k=self.at_k,
                evidence=[None if one is None else one.of(manifest.images) for one in hints],
                coverage=families.make_coverage(),
                resamples=self.resamples,
                seed=self.seed,
                progress=progress,
                scoring=progress.show_next,
            )


def choose_measures(
    text: str, evaluation: EvaluationOptions, decision: DecisionOptions
) -> tuple[str, ...] | None:
    """Return the measures that --measures asks for; None for the main ones."""
    from mlcrf.reports.score_tables import choose_measures as choose

    if text == "main":
        return None
    return choose(text, evaluation.at_k, has_costs=decision.costs is not None)


def _require_unseen(runs: "Sequence[Run]", manifest: "Manifest") -> None:
    """Refuse data without splits that a run was trained on; name the table of the run's splits."""
    from mlcrf.checkpoint import SPLITS
    from mlcrf.errors import DataError
    from mlcrf.evaluation import count_in_training

    for run in runs:
        if count := count_in_training(run, manifest):
            raise DataError(
                f"defines no splits, and {run.path} was trained on {count} of its {len(manifest)} "
                f"images; give {run.path / SPLITS} in its place, which says what is test",
                manifest.name,
            )
