"""Options and option groups shared by several commands."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer
from typer.core import TyperCommand

from mlcrf.choices import (
    MOST_COST,
    MOST_RARITY,
    Blank,
    Decision,
    EngineName,
    InferenceName,
    Oddity,
    PrecisionOf,
    RawPairs,
    ScoredSplit,
)
from mlcrf.cli import console
from mlcrf.cli.mistakes import UsageError, explain, refuse_run, refuse_swapped

if TYPE_CHECKING:
    from mlcrf.backbones.feature_source import FeatureSource
    from mlcrf.checkpoint import Run
    from mlcrf.comparison import Comparison
    from mlcrf.data.manifest import Manifest
    from mlcrf.data.readers import ReadOptions
    from mlcrf.decoding import Coverage, Decoder, Guarantee
    from mlcrf.images import ListedImages
    from mlcrf.labels import LabelSpace
    from mlcrf.prediction import KnownAnswers, LabelSelection, PredictJob
    from mlcrf.prediction.hinting import HintEvidence
    from mlcrf.rules import Rules
    from mlcrf.stores import Stored

_PLAIN = (Decision.THRESHOLD, None, None, None)  # options of the rule, none of them given
_DATABASES = ("sqlite:", "postgres:", "postgresql:", "postgresql+")
_given: ContextVar[frozenset[str]] = ContextVar("given", default=frozenset())  # in the command
DATA = "Data"
KNOWN = "Known labels"
DECISION = "Decision"
LABELS = "Labels to write"
RUNTIME = "Runtime"

MODEL_HELP = "Run directory, or a name that `mlcrf models` lists."


def load_run(path: Path, *, tempered: bool = True) -> "Run":
    """Load the run that a user names; if there is none, say so before anything heavy is imported.

    Args:
        tempered: with the factors that its calibration images chose.

    Raises:
        RunError: see `mlcrf.checkpoint.load_run`.
    """
    from mlcrf.shipped_models import find_run

    path = find_run(path)
    from mlcrf.checkpoint import load_run as load

    return load(path, tempered=tempered)


RunDirectory = Annotated[Path, typer.Argument(help=MODEL_HELP)]
Model = Annotated[Path, typer.Option(help=MODEL_HELP)]
Images = Annotated[
    list[str],
    typer.Argument(
        help="Folders and image files, tar and Parquet files of images, s3://, gs:// or file:// "
        "URLs; `-` reads names from standard input.",
        show_default=False,
    ),
]
Rename = Annotated[
    Path | None,
    typer.Option(
        help="CSV file with your own label names, one `label,name` per line.",
        rich_help_panel=LABELS,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Stop after this many images.")]
RawPairsOption = Annotated[
    RawPairs,
    typer.Option(
        "--raw-pairs",
        help="Of a RAW file in a folder and the JPEG or HEIC of the same name beside it, tag only "
        "the latter, or both.",
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "--null",
        "-0",
        help="Names on standard input end with a NUL byte, as those of find -print0.",
    ),
]
LimitData = Annotated[
    int | None, typer.Option(min=1, help="Use the first N images only.", rich_help_panel=DATA)
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with status 1 if any image could not be tagged.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda, cuda:1, mps and so on.", rich_help_panel=RUNTIME)
]
Engine = Annotated[
    EngineName,
    typer.Option(
        help="Engine that runs a frozen network; auto: the fastest that computes torch's features.",
        rich_help_panel=RUNTIME,
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for features; $MLCRF_CACHE or ~/.cache/mlcrf by default.",
        rich_help_panel=RUNTIME,
    ),
]
AnySplit = Annotated[
    ScoredSplit,
    typer.Option(metavar="SPLIT", help="train, validation, test or all.", rich_help_panel=DATA),
]
LabelSetOfRun = Annotated[
    int | None,
    typer.Option(
        help="MIRFLICKR only: 24, 14 or 38 labels (default: as the run).", rich_help_panel=DATA
    ),
]
LabelSet = Annotated[
    int,
    typer.Option(
        help="MIRFLICKR only: 24 potential labels, 14 relevant, or 38 both.", rich_help_panel=DATA
    ),
]
ImageRoot = Annotated[
    str | None,
    typer.Option(
        help="Folder or s3:// URL that image paths of a table are relative to.",
        rich_help_panel=DATA,
    ),
]
LabelSep = Annotated[
    str | None, typer.Option(help="Separator of labels in one column.", rich_help_panel=DATA)
]


@dataclass(frozen=True)
class ReadingOptions:
    """Options of reading a data set, for what it does not say itself."""

    image_root: ImageRoot = None
    label_sep: LabelSep = None
    label_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Columns that hold labels, separated by commas; others are left out.",
            rich_help_panel=DATA,
        ),
    ] = None
    ignore_columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Columns to leave out, separated by commas.",
            rich_help_panel=DATA,
        ),
    ] = None
    split_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of train, validation and test (default: split).",
            rich_help_panel=DATA,
        ),
    ] = None
    blank: Annotated[
        Blank | None,
        typer.Option(
            help="Meaning of an empty cell of a table (default: unknown).", rich_help_panel=DATA
        ),
    ] = None
    true: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="Further word for 1 in a table; may be repeated.",
            rich_help_panel=DATA,
        ),
    ] = None
    false: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="Further word for 0 in a table; may be repeated.",
            rich_help_panel=DATA,
        ),
    ] = None
    fold_case: Annotated[
        bool,
        typer.Option(
            "--fold-case",
            help="Labels that differ in case or spaces are one.",
            rich_help_panel=DATA,
        ),
    ] = False
    features: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Of a table of numbers: columns that are features, by names or patterns such as "
            "'x*', separated by commas (default: the only column of lists of numbers).",
            rich_help_panel=DATA,
        ),
    ] = None
    accept: Annotated[
        list[Oddity] | None,
        typer.Option(
            metavar="ODDITY",
            help="Read data in spite of this oddity; may be repeated.",
            rich_help_panel=DATA,
        ),
    ] = None

    def make(
        self,
        label_set: int = 24,
        labels: "LabelSpace | None" = None,
        accept: "Sequence[Oddity]" = (),
        run_features: tuple[str, ...] = (),
    ) -> "ReadOptions":
        """Make the options of a reader; raises as `parse_data`."""
        from mlcrf.data.read_options import ReadOptions

        return ReadOptions(
            label_set,
            None if self.image_root is None else parse_data(self.image_root),
            self.label_sep,
            labels,
            blank=self.blank,
            label_columns=None if self.label_columns is None else _columns(self.label_columns),
            ignore_columns=_columns(self.ignore_columns or ""),
            split_column=self.split_column,
            true_words=tuple(self.true or ()),
            false_words=tuple(self.false or ()),
            fold_case=self.fold_case,
            accept=frozenset((*(self.accept or ()), *accept)),
            features=None if self.features is None else _columns(self.features),
            run_features=run_features,
        )


def _columns(text: str) -> tuple[str, ...]:
    """Return the column names of a comma-separated text."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def show_reading(manifest: "Manifest") -> None:
    """Print how a data set was understood, and notes on it, on standard error."""
    from mlcrf.data.plausibility import summarise

    for line in summarise(manifest).splitlines():
        console.log(line)
    for text in manifest.notes:
        console.note(text)


def show_notes(notes: Sequence[str], manifest: "Manifest") -> None:
    """Print the notes of a result that `show_reading` has not printed."""
    for text in notes:
        if text not in manifest.notes:
            console.note(text)


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, engine and cache of the network."""

    device: Device = "auto"
    engine: Engine = EngineName.AUTO
    cache_dir: CacheDir = None

    @property
    def cache(self) -> Path:
        return cache_dir(self.cache_dir)

    def make_extractor(self, run: "Run") -> "FeatureSource":
        """Make the source of a run's features."""
        from mlcrf.backbones.engines import pick_device
        from mlcrf.backbones.sources import make_source

        return make_source(
            run.defer_backbone(),
            engine=self.engine,
            device=pick_device(self.device),
            cache_dir=self.cache,
        )


@dataclass(frozen=True)
class PromiseOptions:
    """A promise of precision or recall."""

    panel: ClassVar[str] = DECISION

    precision: Annotated[
        float | None,
        typer.Option(
            help="Write a label only where the run's calibration images support this precision, "
            "such as 0.95; see `mlcrf calibrate`.",
        ),
    ] = None
    recall: Annotated[
        float | None,
        typer.Option(
            help="Write each label so often that the calibration images support this recall.",
        ),
    ] = None
    confidence: Annotated[
        float | None,
        typer.Option(help="Confidence of --precision or --recall (default 0.9)."),
    ] = None
    precision_of: Annotated[
        PrecisionOf | None,
        typer.Option(
            help="--precision of each label (default), or of all written labels together."
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.precision is not None and self.recall is not None:
            raise typer.BadParameter("--precision and --recall: promise one of them")
        if self.confidence is not None and not self.promises:
            raise typer.BadParameter("--confidence is for --precision or --recall; give one")
        if self.precision_of is not None and self.precision is None:
            raise typer.BadParameter("--precision-of is for --precision; give both")
        for option in ("precision", "recall", "confidence"):
            value = getattr(self, option)
            if value is not None and not 0 < value < 1:
                raise typer.BadParameter(
                    f"--{option}: expected a number between 0 and 1, such as 0.95, got {value:g}"
                )

    @property
    def promises(self) -> bool:
        """Return whether anything is promised."""
        return self.precision is not None or self.recall is not None

    def make_guarantee(self) -> "Guarantee | None":
        """Make the guarantee that the options describe; None without a promise."""
        from mlcrf.decoding import Guarantee

        if not self.promises:
            return None
        of = self.precision_of or PrecisionOf.LABEL
        confidence = 0.9 if self.confidence is None else self.confidence
        return Guarantee(self.precision, self.recall, confidence, of)


@dataclass(frozen=True)
class DecisionOptions(PromiseOptions):
    """The decision rule: how probabilities become labels."""

    decode: Annotated[Decision, typer.Option(help="How probabilities become labels.")] = (
        Decision.THRESHOLD
    )
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Minimum probability of a label (default 0.5)."),
    ] = None
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Number of labels for --decode top-k and f1-of-means.")
    ] = None
    rarity: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Rank by log probability minus this many times log frequency of the label, for "
            "--decode top-k (default 0); `auto` is best on the validation images.",
        ),
    ] = None
    at_least: Annotated[int, typer.Option(min=0, help="Minimum number of labels per image.")] = 0
    at_most: Annotated[
        int | None, typer.Option(min=0, help="Maximum number of labels per image.")
    ] = None
    costs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decide at least expected cost: a CSV file `label,false,missed` with the cost of "
            "a label that is wrongly written and of one that is wrongly not; `*` stands for all "
            "other labels.",
        ),
    ] = None
    abstain: Annotated[
        float | None,
        typer.Option(
            metavar="COST",
            help="Leave a label open where anything else is expected to cost more than this; "
            "labels have costs of their own in a column `abstain` of --costs.",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        promises = self.promises
        has_rule = "decode" in _given.get()  # be it the default, `--decode threshold`
        if promises and (has_rule or self.own_rule != DecisionOptions().own_rule):
            raise typer.BadParameter(
                "--precision and --recall have thresholds of their own; leave out --decode, "
                "--threshold, --top-k, --rarity, --at-least and --at-most"
            )
        self._check_costs(promises=promises, has_rule=has_rule)
        self._check_rule()

    def _check_costs(self, *, promises: bool, has_rule: bool) -> None:
        if self.abstain is not None and self.costs is None:
            raise typer.BadParameter("--abstain is for --costs; give both")
        if self.abstain is not None and not 0 <= self.abstain <= MOST_COST:
            raise typer.BadParameter(
                f"--abstain: expected a number from 0 to {MOST_COST:g}, got {self.abstain:g}"
            )
        if self.costs is not None and (promises or has_rule or self.without_limits != _PLAIN):
            raise typer.BadParameter(
                "--costs is a rule of its own; leave out --decode, --threshold, --top-k, --rarity, "
                "--precision and --recall"
            )

    def _check_rule(self) -> None:
        decode = f"--decode {self.decode.value}"
        if self.decode.has_k and self.top_k is None:
            raise typer.BadParameter(f"{decode} needs --top-k NUMBER")
        if not self.decode.has_k and self.top_k is not None:
            raise typer.BadParameter(f"--top-k is for --decode top-k, not for {decode}")
        if self.decode is not Decision.TOP_K and self.rarity is not None:
            raise typer.BadParameter(f"--rarity is for --decode top-k, not for {decode}")
        _parse_rarity(self.rarity)
        if self.decode is not Decision.THRESHOLD and self.threshold is not None:
            raise typer.BadParameter(f"--threshold is for --decode threshold, not for {decode}")
        if self.at_most is not None and self.at_least > self.at_most:
            raise typer.BadParameter(
                f"--at-least {self.at_least} is more than --at-most {self.at_most}"
            )
        if self.top_k is not None and (self.at_least or self.at_most is not None):
            raise typer.BadParameter("--top-k is exact; leave out --at-least and --at-most")

    @property
    def own_rule(self) -> tuple[object, ...]:
        """The options that describe a rule without a promise."""
        return (*self.without_limits, self.at_least, self.at_most)

    @property
    def without_limits(self) -> tuple[object, ...]:
        """The options that describe a rule, without limits of the number of labels."""
        return (self.decode, self.threshold, self.top_k, self.rarity)

    def make_decoder(self, labels: "LabelSpace") -> "Decoder":
        """Make the decoder that the options describe.

        Raises:
            MlcrfError: the costs of these labels cannot be read.
        """
        from mlcrf.decoding import Decoder, load_costs

        if self.costs is not None:
            costs = load_costs(self.costs, labels, abstain=self.abstain)
            return Decoder(at_least=self.at_least, at_most=self.at_most, costs=costs)
        guarantee = self.make_guarantee()
        if guarantee is not None:
            return Decoder.promising(guarantee)
        return Decoder(
            self.decode,
            self.threshold,
            self.top_k,
            _parse_rarity(self.rarity),
            at_least=self.at_least,
            at_most=self.at_most,
        )


@dataclass(frozen=True)
class CoverageOptions:
    """The families of label sets of an image."""

    panel: ClassVar[str] = DECISION

    coverage: Annotated[
        float | None,
        typer.Option(
            help="Also give the family of label sets that holds the right one with this "
            "probability, such as 0.9, as the run's calibration images support: labels that all "
            "sets have, labels that are open, and the number of sets.",
        ),
    ] = None
    randomised: Annotated[
        bool,
        typer.Option(
            "--randomised",
            help="Choose the last set of a family of --coverage at random, by the image.",
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.randomised and self.coverage is None:
            raise typer.BadParameter("--randomised is for --coverage; give both")
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise typer.BadParameter(
                f"--coverage: expected a number between 0 and 1, such as 0.9, got {self.coverage:g}"
            )

    def make_coverage(self) -> "Coverage | None":
        """Make the coverage that the options describe."""
        from mlcrf.decoding import Coverage

        return None if self.coverage is None else Coverage(self.coverage, self.randomised)


def make_promise(run: "Run", promise: PromiseOptions) -> "Decoder | None":
    """Make the decoder of a promise by a run; None without a promise.

    Raises:
        RunError: the run has no calibration images.
    """
    from mlcrf.decoding import Decoder

    guarantee = promise.make_guarantee()
    return None if guarantee is None else run.make_decoder(Decoder.promising(guarantee))


def make_decoder(run: "Run", decision: DecisionOptions, *, is_known: bool = False) -> "Decoder":
    """Make the decoder of a run; print notes on what it promises.

    Args:
        is_known: whether something is known of images, by labels, hints or albums.
    """
    decoder = make_promise(run, decision)
    if decoder is None:
        return decision.make_decoder(run.labels)
    from mlcrf.checkpoint import guarantee_notes

    for note in guarantee_notes(run, decoder):
        console.note(note)
    if is_known:
        console.note(
            "nothing is promised for images of which something is known, by labels, hints or albums"
        )
    return decoder


def make_coverage(
    run: "Run", families: CoverageOptions, *, is_known: bool = False
) -> "Coverage | None":
    """Make the coverage of a run; print notes on what it promises.

    Args:
        is_known: whether something is known of images, by labels, hints or albums.
    """
    asked = families.make_coverage()
    if asked is None:
        return None
    from mlcrf.checkpoint import coverage_notes

    coverage = run.make_coverage(asked)
    for note in coverage_notes(run, coverage):
        console.note(note)
    if is_known and not coverage.is_of_all:
        console.note(
            "no coverage is promised for images of which something is known, by labels, hints or "
            "albums"
        )
    return coverage


def _parse_rarity(text: str | None) -> float | None:
    """Return the number of --rarity, 0 if it is not given; None for `auto`."""
    if text == "auto":
        return None
    try:
        rarity = float(text or 0)
    except ValueError:
        rarity = -1
    if not 0 <= rarity <= MOST_RARITY:
        raise typer.BadParameter(
            f"--rarity: expected a number from 0 to {MOST_RARITY} or auto, got {text!r}"
        )
    return rarity


@dataclass(frozen=True)
class SelectionOptions:
    """The labels that are written, and their names."""

    panel: ClassVar[str] = LABELS

    rename: Rename = None
    only: Annotated[
        str | None,
        typer.Option(
            help="Labels to write, separated by commas; labels that they imply are written too."
        ),
    ] = None
    never: Annotated[
        str | None,
        typer.Option(help="Labels not to write, separated by commas; nor labels that imply them."),
    ] = None
    min_prob: Annotated[
        float,
        typer.Option(min=0, max=1, help="Leave out chosen labels with a lower probability."),
    ] = 0

    def make_selection(self, labels: "LabelSpace", rules: "Rules") -> "LabelSelection":
        """Make the selection among these labels."""
        from mlcrf.prediction import LabelSelection, load_names

        return LabelSelection(
            labels,
            rules,
            renamed=load_names(self.rename, labels) if self.rename else None,
            only=_names(self.only),
            never=_names(self.never) or (),
            min_prob=self.min_prob,
        )


HintTables = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]TABLE",
        help="Tags by another source, which may be wrong: trusted as far as the run has "
        "learned to, by `mlcrf train --hints`; may be repeated.",
    ),
]


def read_evidence(
    run: "Run", texts: list[str] | None, reading: ReadingOptions
) -> "HintEvidence | None":
    """Read the tables of --hints; return what they add to the labels of images.

    Raises:
        MlcrfError: a table cannot be read, or the run does not know its source.
    """
    if not texts:
        return None
    from mlcrf.data.hint_tables import parse_hints, read_hints
    from mlcrf.prediction.hinting import match_sources, weigh_hints

    tables = match_sources(run, parse_hints(texts))
    how = reading.make(run.label_set, run_features=run.backbone_spec.features)
    return weigh_hints(run, read_hints(tables, run.labels, how, tell=show_reading), tables)


@dataclass(frozen=True)
class KnownOptions:
    """Labels that are known without the model, and images that inform each other."""

    panel: ClassVar[str] = KNOWN

    given: Annotated[
        str | None, typer.Option(help="Labels known for every image, such as `sea=1,indoor=0`.")
    ] = None
    known: Annotated[
        str | None,
        typer.Option(
            help="Labels known for some images: any table or folder that `train` reads, or a "
            "database of `mlcrf review` (sqlite:///tags.db). Labels missing from a list of labels "
            "are unknown, not absent."
        ),
    ] = None
    known_keywords: Annotated[
        bool,
        typer.Option(
            "--known-keywords",
            help="Labels among an image's keywords (XMP, IPTC or sidecar, not by mlcrf) are "
            "present.",
        ),
    ] = False
    image_root: Annotated[
        str | None,
        typer.Option(help="Folder or s3:// URL that image paths of --known are relative to."),
    ] = None
    label_sep: Annotated[
        str | None, typer.Option(help="Separator of labels in a column of --known.")
    ] = None
    hints: HintTables = None
    album: Annotated[
        bool,
        typer.Option(
            "--album",
            help="Use images from the same folder taken close in time as context for each other; "
            "needs a run that was trained with --album.",
        ),
    ] = False

    def __post_init__(self) -> None:
        for option, value in (("--image-root", self.image_root), ("--label-sep", self.label_sep)):
            if value is not None and self.known is None and not self.hints:
                raise typer.BadParameter(f"{option} is for --known; give both, or leave it out")

    def make_job(
        self,
        run: "Run",
        selection: "LabelSelection",
        decision: DecisionOptions,
        limit: int | None,
        *,
        sidecar_dir: Path | None,
        named: Sequence[Path],
        families: CoverageOptions = CoverageOptions(),
    ) -> "PredictJob":
        """Read the known labels, and make the job.

        Args:
            named: the local folders and images that the user named.

        Raises:
            MlcrfError: known labels cannot be read, or contradict each other.
        """
        from mlcrf.keywords.sidecar_places import PhotoPlaces
        from mlcrf.prediction import KnownKeywords, PredictJob, read_known

        places = [PhotoPlaces(), PhotoPlaces(sidecar_dir, named)]
        keywords = KnownKeywords(selection, places) if self.known_keywords else None
        known = None
        if self.given is not None or self.known is not None or keywords is not None:
            known = read_known(
                run.labels,
                run.rules,
                given=self.given,
                table=None if self.known is None else self._known_labels(run, named),
                keywords=keywords,
                options=ReadingOptions(self.image_root, self.label_sep).make(
                    run.label_set, run_features=run.backbone_spec.features
                ),
                tell=show_reading,
                sidecar_dir=sidecar_dir,
            )
        renamed = tuple(sorted(selection.renamed.items()))
        hints = read_evidence(run, self.hints, ReadingOptions(self.image_root, self.label_sep))
        is_known = known is not None or hints is not None or self.album
        decoder = make_decoder(run, decision, is_known=is_known)
        coverage = make_coverage(run, families, is_known=is_known)
        return PredictJob(run.digest, decoder, known, self.album, renamed, limit, hints, coverage)

    def _known_labels(self, run: "Run", named: Sequence[Path]) -> "Path | Stored | KnownAnswers":
        """Return the table of --known, or the answers in a database of a review."""
        assert self.known is not None
        if not self.known.startswith(_DATABASES):
            refuse_run(self.known, "a table for --known", "Its images are in splits.csv.")
            return parse_data(self.known)
        console.require_extra("review", "sqlalchemy")
        from mlcrf.prediction import KnownAnswers
        from mlcrf.review.review_reader import read_answers

        manifest = read_answers(self.known, run.labels, named)
        return KnownAnswers(manifest, self.known.rpartition("@")[2])

    def note_if_unused(self, job: "PredictJob", images: "ListedImages") -> None:
        """Print a note if --known names none of the images."""
        if job.known is not None and job.known.of_photo and not job.known.covers(images):
            console.note(f"{self.known} has no row for these images; check its image paths")


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
        self, run: Path, data: str, reading: ReadingOptions, command: str
    ) -> "tuple[Run, Manifest]":
        """Load a run, and the images to score it on; print how they were understood."""
        find_both(run, data, command)
        trained = load_run(run)
        return trained, self.read([trained], data, reading)

    def read(self, runs: "Sequence[Run]", data: str, reading: ReadingOptions) -> "Manifest":
        """Read the images to score runs on; print how they were understood.

        All labels of the data are read if the runs have different ones.
        """
        import numpy as np

        from mlcrf.data.readers import read_dataset
        from mlcrf.data.splits import take_split

        first = runs[0]
        labels: LabelSpace | None = first.labels
        label_set = self.label_set or first.label_set
        if any(set(run.labels) != set(first.labels) for run in runs):
            labels, label_set = None, self.label_set or 38
        how = reading.make(label_set, labels, run_features=first.backbone_spec.features)
        manifest = read_dataset(parse_source(data), how)
        for run in runs:
            run.require_input(manifest)
        show_reading(manifest)
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
            )


Measures = Annotated[
    str,
    typer.Option(
        metavar="main|all|NAME,...",
        help="Measures in the printed table: `all` adds those that papers report; or names and "
        "symbols, such as CP,CR,CF1,OP,OR,OF1. --out and --json have all.",
    ),
]


def choose_measures(
    text: str, evaluation: EvaluationOptions, decision: DecisionOptions
) -> tuple[str, ...] | None:
    """Return the measures that --measures asks for; None for the main ones."""
    from mlcrf.reports.tables import choose_measures as choose

    if text == "main":
        return None
    return choose(text, evaluation.at_k, has_costs=decision.costs is not None)


Data = Annotated[
    str, typer.Argument(help="Table or folder of images and labels, or s3://... of a table.")
]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Expand parameters whose type is a dataclass into one option per field.

    The command is called with an instance of each dataclass. Its `panel`, if it has one, is that of
    the options that name none.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            own = get_type_hints(kind, include_extras=True)
            if panel := getattr(kind, "panel", None):
                for one in fields(kind):
                    info = own[one.name].__metadata__[0]
                    info.rich_help_panel = info.rich_help_panel or panel
            parameters += [
                inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=one.default,
                    annotation=own[one.name],
                )
                for one in fields(kind)
            ]
        else:
            only = inspect.Parameter.KEYWORD_ONLY
            parameters.append(parameter.replace(annotation=hints[name], kind=only))

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{one.name: values.pop(one.name) for one in fields(kind)})
        command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


class PanelCommand(TyperCommand):
    """A command whose help lists options in panels, as plain text, and that explains mistakes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
            sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
            named = (name for name, one in sources.items() if one and one.name == "COMMANDLINE")
            _given.set(frozenset(named))
            return rest
        except UsageError as error:
            explain(error, self, ctx)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or "Options"
                panels.setdefault("Arguments" if is_argument else panel, []).append(record)
        panels[RUNTIME] = panels.pop(RUNTIME, [])  # last
        for title, records in panels.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def cache_dir(given: Path | None) -> Path:
    """Return the given folder for features, $MLCRF_CACHE, or the user's cache folder."""
    if given is not None:
        return given
    if "MLCRF_CACHE" in os.environ:
        return Path(os.environ["MLCRF_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlcrf"


def parse_data(text: str) -> "Path | Stored":
    """Return a local path, or a place in an object store.

    Raises:
        DataError: the URL's scheme is unknown, it has no bucket, or the driver is not installed.
    """
    from mlcrf.stores import parse_target

    return parse_target(text)


def parse_source(text: str) -> "Path | Stored":
    """Return where data are; if that is a local path that does not exist, say so at once.

    Raises:
        DataError: there is no such path; see also `parse_data`.
    """
    from mlcrf.errors import DataError

    place = parse_data(text)
    if isinstance(place, Path) and not place.exists():
        raise DataError("there is no such file or folder", place)
    return place


def find_both(run: Path, data: str, command: str) -> "Path | Stored":
    """Return where data are, for a command on a run and data; see that both are there.

    Raises:
        MlcrfError: one of them is not there, or they are in each other's place.
    """
    from mlcrf.shipped_models import find_run

    refuse_swapped(run, data, command)
    find_run(run)
    return parse_source(data)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]
