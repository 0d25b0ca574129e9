"""Options of how probabilities become label sets, and of what is promised of these."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from mlcrf.choices import MOST_COST, MOST_RARITY, Decision, PrecisionOf
from mlcrf.cli import console
from mlcrf.cli.options.grouping import DECISION, named_options

if TYPE_CHECKING:
    from mlcrf.checkpoint import Run
    from mlcrf.decoding import Coverage, Decoder, Guarantee
    from mlcrf.labels import LabelSpace

_PLAIN = (Decision.THRESHOLD, None, None, None)  # options of the rule, none of them given


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
        has_rule = "decode" in named_options.get()  # be it the default, `--decode threshold`
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
