"""Run directories: trained models on disk, saved and loaded."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mlcrf import atomic
from mlcrf.backbones.deferred import DeferredBackbone, defer_backbone
from mlcrf.backbones.registry import Backbone, BackboneSpec, Source, make_backbone
from mlcrf.backbones.views import VIEWS
from mlcrf.calibration import (
    Calibration,
    Model,
    load_adjustments,
    load_calibration,
    require_standings,
)
from mlcrf.choices import Decision, InferenceName
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest
from mlcrf.data.readers import ReadOptions
from mlcrf.data.readers.table import read_table
from mlcrf.decoding import Coverage, Decoder
from mlcrf.errors import DataError, LabelsError, RunError, reason_of
from mlcrf.hints import describe_fault
from mlcrf.inference import InferenceMethod
from mlcrf.labels import LabelSpace, load_labels, save_labels
from mlcrf.model import LabelCrf
from mlcrf.rules import Rules
from mlcrf.shipped_models import CONFIG, LABELS, find_run
from mlcrf.tempering import Factors
from mlcrf.version import __version__

WEIGHTS = "best.safetensors"
SPLITS = "splits.csv"
STATE = "state.pt"
_FORMAT = 1


def _sound(spec: BackboneSpec) -> BackboneSpec:
    colours = len(spec.mean) == len(spec.std) == 3 and all(map(isfinite, (*spec.mean, *spec.std)))
    if not colours or min(spec.std) <= 0 or not 1 <= spec.size_px <= 4096:
        raise ValueError("not a valid network input")
    if not 1 <= spec.views <= len(VIEWS):
        raise ValueError("not a number of views")
    return spec


@dataclass(frozen=True)
class Provenance:
    """Command, options and data of a run, from which `mlcrf train --config` makes it again.

    Attributes:
        command: the command as typed; empty if the run was made from Python.
        options: its options about data and runtime, by name; paths are absolute.
        data_sha256: see `mlcrf.training.repetition.digest_data`.
        auto: the settings that were `auto`.
    """

    command: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    data_sha256: str = ""
    auto: tuple[str, ...] = ()


class _Config(BaseModel):
    """The part of config.json that is read."""

    settings: TrainSettings
    backbone: Annotated[BackboneSpec, AfterValidator(_sound)]
    backbone_trained: bool
    num_features: int = Field(ge=1)
    data: str
    labels_sha256: str
    decoders: dict[str, tuple[Decoder, ...]]
    mentions: dict[str, dict[str, float]] = {}
    hints: dict[str, dict[str, tuple[float, float]]] = {}
    made_by: Provenance = Provenance()


@dataclass(frozen=True)
class Run:
    """A trained model: the CRF and its baseline on one backbone.

    Attributes:
        settings: the effective settings, AUTO resolved.
        backbone_spec: the network and its input size.
        data: name of the training data set.
        crf, independent: the model and its baseline, for raw features.
        backbone_weights: weights of the network if it was fine-tuned, else None; of networks of the
            package those that differ from the published ones.
        decoders: decision rules with values tuned on the validation images, by model (`crf` and
            `independent`).
        digest: SHA-256 of the weights file; if there are factors, of that and of these.
        weights_digest: SHA-256 of the weights file.
        factors: by model, what its potentials were multiplied by when it was loaded; see
            `mlcrf.calibration.Adjustment`.
        made_by: the command and data of the run, as far as known.
        hints: of each source of hints, the log-odds that it adds to a label if it names it, and if
            it does not.
        mentions: of each training source that lists only a part of what is present, the estimated
            share of the images with a label in which it lists the label.
    """

    path: Path
    labels: LabelSpace
    settings: TrainSettings
    backbone_spec: BackboneSpec
    data: str
    crf: LabelCrf
    independent: LabelCrf
    backbone_weights: dict[str, Tensor] | None
    digest: str = ""
    decoders: dict[str, tuple[Decoder, ...]] = field(default_factory=dict)
    made_by: Provenance = Provenance()
    mentions: dict[str, dict[str, float]] = field(default_factory=dict)
    hints: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    weights_digest: str = ""
    factors: dict[Model, Factors] = field(default_factory=dict)

    @property
    def label_set(self) -> int:
        """The MIRFLICKR annotations with these labels; 24 for other labels."""
        relevant = sum(name.endswith("_r1") for name in self.labels)
        return 24 if not relevant else 14 if relevant == len(self.labels) else 38

    def with_published_network(self) -> "Run":
        """Return the run whose network has seen no labels, for its features alone."""
        return replace(self, backbone_weights=None)

    def make_backbone(self) -> Backbone:
        """Return the network with the weights that the heads were fitted on.

        Raises:
            BackboneError: its published weights are not available offline.
        """
        is_packaged = self.backbone_spec.source is Source.PACKAGE
        own = self.backbone_weights
        backbone = make_backbone(self.backbone_spec, pretrained=own is None or is_packaged)
        if own is not None:
            try:
                (backbone.load_changes if is_packaged else backbone.load_state_dict)(own)
            except RuntimeError as error:
                raise RunError(
                    f"{self.path / WEIGHTS}: not the weights of {self.backbone_spec.name}, which "
                    f"{CONFIG} names; train again"
                ) from error
        return backbone

    def defer_backbone(self) -> Backbone | DeferredBackbone:
        """Return the same network to compute features with, built only where that is needed.

        Raises:
            BackboneError: its published weights are not available offline.
        """
        return defer_backbone(
            self.backbone_spec, _num_features(self.crf), self.backbone_weights, self.make_backbone
        )

    def take_input(self, manifest: Manifest) -> Manifest:
        """Return data with the features that the run learned from, if these are among theirs.

        Raises:
            DataError: see `require_input`.
        """
        found = manifest.of_features(self.backbone_spec.features)
        self.require_input(found)
        return found

    def require_input(self, manifest: Manifest) -> None:
        """Refuse data of another kind than the run learned from.

        Raises:
            DataError: images for a run that learned from a table of numbers, or such a table
                with other features, or for a run that learned from images.
        """
        learned = self.backbone_spec.features
        if tuple(learned) == manifest.feature_names:
            return
        if not learned:
            raise DataError(
                f"is a table of numbers, and {self.path} learned from images, by backbone "
                f"{self.backbone_spec.name}; give it images, or train on a table",
                manifest.name,
            )
        some = ", ".join(learned[:3])
        raise DataError(
            f"has not the {len(learned)} features that {self.path} learned from: {some}"
            f"{' and so on' if len(learned) > 3 else ''}; give it a table with these columns",
            manifest.name,
        )

    def make_decoder(self, decoder: Decoder, model: str = "crf") -> Decoder:
        """Return the decoder with what it lacks filled in by this run's tuned decoder of its rule.

        The thresholds of a guarantee come from the run's calibration images. Costs are put into the
        order of the run's labels.

        Raises:
            RunError: the run has no such decoder, or no calibration images.
            LabelsError: costs of other labels.
        """
        if decoder.costs is not None:
            return replace(decoder, costs=decoder.costs.ordered(self.labels))
        if decoder.is_ready:
            return decoder
        if decoder.guarantee is not None:
            images = self.load_calibration()
            rules = self.crf.rules if model == "crf" else self.independent.rules
            return decoder.calibrated(images.marginals[model], images.targets, rules, images.name)
        for tuned in self.decoders.get(model, ()):
            if tuned.rule is decoder.rule:
                return decoder.filled_in(tuned)
        what, instead = "tuned thresholds", "use another rule"
        if decoder.rule is Decision.TOP_K:
            what, instead = "label frequencies", "leave out --rarity"
        raise RunError(
            f"{self.path}: has no {what} for --decode {decoder.rule}; train again, or {instead}"
        )

    def load_calibration(self) -> Calibration:
        """Load the run's calibration images.

        Raises:
            RunError: there are none, they are of other weights, or the file is damaged.
        """
        return load_calibration(self.path, run=self.weights_digest, num_labels=len(self.labels))

    def make_coverage(self, coverage: Coverage, model: str = "crf") -> Coverage:
        """Return the coverage with the reach that this run's calibration images ask for.

        Raises:
            RunError: the run has no calibration images, or none whose labels are all known.
        """
        if coverage.reach is not None:
            return coverage
        images = self.load_calibration()
        standing = require_standings(self.path, images, model)
        return coverage.calibrated(standing, images.name, self.settings.seed)

    @property
    def rules(self) -> Rules:
        return self.crf.rules

    def make_inference(
        self, name: InferenceName | None = None, *, max_exact_labels: int | None = None
    ) -> InferenceMethod:
        """Return the run's inference method, or another method with the run's settings.

        Args:
            name: None for the run's method.
            max_exact_labels: overrides the run's limit, to enumerate for a few images.
        """
        settings = self.settings
        if max_exact_labels:
            settings = settings.model_copy(update={"max_exact_labels": max_exact_labels})
        return self.crf.make_inference(settings.inference if name is None else name, settings)


def guarantee_notes(run: Run, decoder: Decoder) -> Iterator[str]:
    """Yield what a user must know of a decoder's guarantee: its labels left out, its images."""
    promise = decoder.guarantee
    if promise is None:
        return
    asked = f"{promise.measure} {promise.level:g} with confidence {promise.confidence:g}"
    if left_out := decoder.left_out(run.labels.names):
        yield (
            f"{asked} cannot be had for {len(left_out)} of {len(run.labels)} labels, which are "
            f"left out: {', '.join(left_out)}"
        )
    images = run.load_calibration()
    fitted = "" if images.of_final else ", by the model before its last fit, which included these"
    yield f"{asked} is promised for images like the {len(images.targets)} of {images.name}{fitted}"


def coverage_notes(run: Run, coverage: Coverage | None) -> Iterator[str]:
    """Yield what a user must know of a calibrated coverage."""
    if coverage is None:
        return
    images = run.load_calibration()
    if coverage.is_of_all:
        yield (
            f"coverage {coverage.level:g} needs {coverage.fewest_images} calibration images with "
            f"all labels known, and {images.name} has {coverage.images}: every label set is in "
            "every family"
        )
        return
    fitted = "" if images.of_final else ", by the model before its last fit, which included these"
    yield (
        f"coverage {coverage.level:g} is promised for images like the {coverage.images} of "
        f"{images.name} with all labels known{fitted}"
    )


def save_run(run: Run) -> Run:
    """Write settings, labels and weights, each file atomically, the weights last.

    Factors that the run was loaded with are part of these weights.

    Returns:
        The run with the digest of its weights file.
    """
    config = {
        "format": _FORMAT,
        "mlcrf": __version__,
        "data": run.data,
        "made_by": asdict(run.made_by),
        "backbone": asdict(run.backbone_spec),
        "backbone_trained": run.backbone_weights is not None,
        "num_features": _num_features(run.crf),
        "settings": run.settings.model_dump(mode="json"),
        "decoders": {
            model: [decoder.record() for decoder in decoders]
            for model, decoders in run.decoders.items()
        },
        **({"mentions": run.mentions} if run.mentions else {}),
        **({"hints": run.hints} if run.hints else {}),
        "labels_sha256": run.labels.digest,
    }
    save_labels(run.path / LABELS, run.labels)
    atomic.write_text(run.path / CONFIG, json.dumps(config, indent=2) + "\n")
    tensors = {
        f"{part}.{key}": value.contiguous()
        for part, state in (
            ("crf", run.crf.state_dict()),
            ("independent", run.independent.state_dict()),
            ("backbone", run.backbone_weights or {}),
        )
        for key, value in state.items()
    }
    content = save(tensors)
    atomic.write_bytes(run.path / WEIGHTS, content)
    digest = hashlib.sha256(content).hexdigest()
    return replace(run, digest=digest, weights_digest=digest, factors={})


def load_run(path: Path, *, tempered: bool = True) -> Run:
    """Load a run directory, or by its name a model included in the package.

    Args:
        tempered: adjust the models as the calibration images say; False for the models as they
            were learned.

    Raises:
        RunError: no such directory, not a finished run, or a damaged file, which is named.
    """
    path = find_run(path)
    config = _load_config(path / CONFIG)
    try:
        labels = load_labels(path / LABELS)
    except LabelsError as error:
        raise RunError(f"{error}; the run is incomplete, train again") from error
    if labels.digest != config.labels_sha256:
        raise RunError(
            f"{path / LABELS}: not the labels that the run was trained with: names or their order "
            "were changed; restore the file (other names in the output: --rename FILE)"
        )
    parts, weights_digest = _load_weights(path / WEIGHTS)
    adjusted = load_adjustments(path, run=weights_digest) if tempered else {}
    factors = {model: one.factors for model, one in adjusted.items()}
    try:
        crf, independent = (
            _tempered(_make_model(parts[name], config.num_features, len(labels)), factors.get(name))
            for name in ("crf", "independent")
        )
    except (KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = reason_of(error)
        raise RunError(f"{path / WEIGHTS}: does not fit {CONFIG} and {LABELS}: {reason}") from error
    weights = parts["backbone"] if config.backbone_trained else None
    given = (config.settings, config.backbone, config.data)
    models = (crf, independent, weights)
    return Run(
        path,
        labels,
        *given,
        *models,
        _identify(weights_digest, factors),
        config.decoders | {model: one.decoders for model, one in adjusted.items()},
        config.made_by,
        config.mentions,
        config.hints,
        weights_digest,
        factors,
    )


def load_splits(run: Run) -> Manifest:
    """Load the images, targets and splits of a run.

    Raises:
        DataError: the table is missing or damaged.
    """
    path = run.path / SPLITS
    if not path.exists():
        raise DataError(f"{path}: missing; it is written by `mlcrf train`")
    features = run.backbone_spec.features
    return read_table(
        path, ReadOptions(labels=run.labels, run_features=features), check_images=False
    )


def _tempered(model: LabelCrf, factors: Factors | None) -> LabelCrf:
    return model if factors is None else model.scaled(factors.unary, factors.pairwise).eval()


def _identify(weights_digest: str, factors: Mapping[Model, Factors]) -> str:
    """Return a digest that is another one with other factors."""
    if not factors:
        return weights_digest
    said = json.dumps({model: asdict(one) for model, one in sorted(factors.items())})
    return hashlib.sha256(f"{weights_digest} {said}".encode()).hexdigest()


def _make_model(state: dict[str, Tensor], num_features: int, num_labels: int) -> LabelCrf:
    factors, shifts = state.get("factors"), state.get("shifts")
    units = state.get("hidden.bias")
    make = partial(
        LabelCrf,
        num_features,
        num_labels,
        edges=state["edges"],
        hidden=0 if units is None else len(units),
        rank=0 if factors is None else len(factors),
        scenes=0 if shifts is None else len(shifts),
    )
    with torch.device("meta"):  # check shapes first: damaged ones could request any memory
        make().load_state_dict(state, assign=True)
    model = make()
    model.load_state_dict(state)
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise ValueError("a weight is NaN or infinite")
    with torch.no_grad():
        model(torch.zeros(1, num_features))  # checks edges and rules
    return model.eval()


def _load_config(path: Path) -> _Config:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        begun = (path.parent / STATE).exists()
        remedy = "finish it with `mlcrf train --resume`" if begun else "is it the right folder?"
        raise RunError(f"{path.parent}: not a finished run: it has no {CONFIG}; {remedy}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise RunError(f"{path}: not the settings of a run of this version (format {_FORMAT})")
    try:
        return _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(".".join(map(str, first["loc"])).split())
        raise RunError(
            f"{path}: not the settings of a run: {where}: {describe_fault(first)}"
        ) from error


def _load_weights(path: Path) -> tuple[dict[str, dict[str, Tensor]], str]:
    try:
        content = path.read_bytes()
        tensors = load(content)
    except FileNotFoundError:
        raise RunError(
            f"{path.parent}: not a finished run: it has no {WEIGHTS}; "
            "finish it with `mlcrf train --resume`"
        ) from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(f"{path}: damaged: {reason_of(error)}; train again") from error
    parts: dict[str, dict[str, Tensor]] = {"crf": {}, "independent": {}, "backbone": {}}
    for name, tensor in tensors.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor
    return parts, hashlib.sha256(content).hexdigest()


def _num_features(model: LabelCrf) -> int:
    return (model.output if model.hidden is None else model.hidden).in_features
