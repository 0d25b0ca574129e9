"""A training run, from a data set to a run directory; reads from top to bottom."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from safetensors.torch import save

from mlcrf import atomic
from mlcrf.backbones.registry import Backbone, BackboneSpec
from mlcrf.calibration import Calibration, save_calibration
from mlcrf.checkpoint import SPLITS, STATE, WEIGHTS, Provenance, Run, save_run
from mlcrf.config import TrainSettings
from mlcrf.data.hint_tables import Hints, describe_copies
from mlcrf.data.manifest import Manifest, Split
from mlcrf.data.readers.table import save_manifest
from mlcrf.data.splits import split_manifest
from mlcrf.errors import DataError, MlcrfError, RunError
from mlcrf.hints import counted
from mlcrf.labels import UNKNOWN
from mlcrf.processes import Processes
from mlcrf.shipped_models import CONFIG
from mlcrf.training.album_fit import training_albums
from mlcrf.training.candidates import Fitted
from mlcrf.training.examples import Examples
from mlcrf.training.extraction import Environment, Progress, extract
from mlcrf.training.finite import require_finite
from mlcrf.training.fitting import (
    FittedModels,
    fit_models,
    rank_held_out,
    surprise_held_out,
)
from mlcrf.training.mentions import (
    Silence,
    code_silence,
    learn_mentions,
    name_shares,
)
from mlcrf.training.network import find_backbone, make_network, resolve_finetune, train_network
from mlcrf.training.outlook import describe_data
from mlcrf.training.plan import Plan, plan_training, resolve_structure
from mlcrf.training.progress import Log, RunFinished, RunStarted, TaskStarted
from mlcrf.training.repetition import digest_data
from mlcrf.training.stages import Result, Stages
from mlcrf.training.trust import learn_trust


@dataclass(frozen=True)
class TrainReport:
    """Report of a training run.

    Attributes:
        images: number of images per split.
        fits: for `crf` and `independent`: penalty, validation loss and report of the last fit.
        seconds: wall time of this call, by part.
        notes: repairs and omissions in the data.
    """

    run: Run
    images: dict[str, int]
    fits: dict[str, dict[str, float]]
    seconds: dict[str, float]
    notes: tuple[str, ...]


def train(
    manifest: Manifest,
    out: Path,
    settings: TrainSettings,
    environment: Environment = Environment(),
    *,
    resume: bool = False,
    overwrite: bool = False,
    made_by: Provenance = Provenance(),
    hints: Hints | None = None,
    log: Log = lambda event: None,
    progress: Progress = lambda done, total: None,
) -> TrainReport:
    """Learn labels from images and write a run directory.

    Compute features by a frozen network, or by one that is fine-tuned first; choose penalties on
    the validation images; refit the independent baseline and the CRF on training and validation
    images together. Test images are never read.

    Args:
        out: the run directory; must not exist unless `resume` or `overwrite`.
        resume: continue a stopped run, or start it if it has no state yet.
        hints: what other sources say of the images; how far each is to be trusted is learned.
        made_by: command and options that the run keeps; its digest of the data is added.
        progress: called with the number of images whose features are computed, and of all images.

    Raises:
        DataError: images that cannot be read (all named), or no labels to learn from.
        RunError: the directory exists, or cannot be resumed.
        SettingsError: settings that contradict each other.
    """
    clock = _Clock()
    spec = find_backbone(settings, manifest)
    automatic = tuple(
        name
        for name in ("finetune", "structure", "objective", "schedule", "inference")
        if getattr(settings, name) == "auto"
    )
    made_by = replace(made_by, data_sha256=digest_data(manifest), auto=automatic)
    manifest = split_manifest(manifest, seed=settings.seed)
    settings = resolve_finetune(settings, spec, manifest, is_hinted=bool(hints))
    parts = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    _check_targets(parts[0])
    coded, silence = manifest, None
    if manifest.mentions:
        targets, silence = code_silence(manifest.targets, manifest.mentions)
        coded = replace(manifest, targets=targets)
    listed = coded.part(Split.TRAIN).targets
    listed = np.where(listed < UNKNOWN, 0, listed)
    partial = silence is not None
    plan = plan_training(settings, manifest.labels, listed, manifest.rules, mentions=partial)
    albums = training_albums(*parts, settings.album_gap_minutes) if settings.albums else None
    backbone = make_network(spec, settings)
    stages = _begin(out, manifest, plan, spec, environment, resume=resume, overwrite=overwrite)

    log(RunStarted(out, plan.settings.model_copy(update={"backbone": spec.name})))
    for note in describe_data(plan, *parts, automatic) + describe_copies(hints or {}, manifest):
        log(f"note: {note}")
    with _removed_if_vain(out, stages, environment.processes):
        network = train_network(backbone, parts, plan, stages, environment, log)
        if network is not None:
            clock.note("network")
        coded_parts = coded.part(Split.TRAIN), coded.part(Split.VALIDATION)
        examples = _extract(backbone, coded_parts, environment, log, progress)
    clock.note("features")
    mentions: dict[str, dict[str, float]] = {}
    if silence is not None:
        mentions, plan = _learn_mentions(manifest, examples, silence, plan, stages, environment)
        clock.note("mentions")
    models = fit_models(
        *examples,
        plan,
        stages=stages,
        albums=albums,
        environment=environment,
        log=log,
        finished=clock.note,
    )

    run = _make_run(out, manifest, plan, spec, network, models)
    run = replace(run, made_by=made_by, mentions=mentions)
    if hints:
        images_of = parts[0].images + parts[1].images
        both = examples[0] + examples[1]
        trust = learn_trust(
            both, images_of, hints, plan.labels, settings, environment.processes, stages.run
        )
        run = replace(run, hints=trust)
    images = {split.value: (manifest.splits or ()).count(split) for split in Split}
    fits = {"crf": _summary(models.crf), "independent": _summary(models.independent)}
    report = TrainReport(run, images, fits, clock.seconds, manifest.notes)
    if environment.processes.is_first:
        report = replace(report, run=save_run(run))
        if not partial:  # tags that a source leaves out would count as wrong, or not at all
            _save_calibration(report.run, models, examples[1])
        _save_record(report, network)
    log(RunFinished(fits))
    return report


def _extract(
    backbone: Backbone,
    parts: tuple[Manifest, Manifest],
    environment: Environment,
    log: Log,
    progress: Progress,
) -> tuple[Examples, Examples]:
    """Return features and targets of training and validation images."""
    train_part, validation_part = parts
    log(f"features of {counted(len(train_part) + len(validation_part), 'image')}")
    log(TaskStarted("features"))
    features = extract(
        backbone, train_part.images + validation_part.images, environment, progress=progress
    )
    return (
        Examples(features[: len(train_part)], train_part.targets),
        Examples(features[len(train_part) :], validation_part.targets),
    )


def _learn_mentions(
    manifest: Manifest,
    examples: tuple[Examples, Examples],
    silence: Silence,
    plan: Plan,
    stages: Stages,
    environment: Environment,
) -> tuple[dict[str, dict[str, float]], Plan]:
    """Return the share of present labels that each source lists, and a plan that knows it."""
    parts = manifest.part(Split.TRAIN), manifest.part(Split.VALIDATION)
    said = {
        name: np.concatenate([part.mentions[name] for part in parts]) for name in silence.sources
    }
    both = examples[0] + examples[1]
    known = Examples(both.features, np.maximum(both.targets, UNKNOWN))
    shares = learn_mentions(known, said, plan.settings, environment.processes, stages.run)
    named = name_shares(silence.sources, shares, said, plan.labels)
    return named, replace(plan, silence=silence.evidence(shares))


def _make_run(
    out: Path,
    manifest: Manifest,
    plan: Plan,
    spec: BackboneSpec,
    network: Result | None,
    models: FittedModels,
) -> Run:
    """Return the run, whose weights are all finite."""
    settings = plan.settings
    resolved = {
        "structure": resolve_structure(settings, len(manifest.labels)),
        "objective": plan.objective,
        "inference": plan.inference,
        "backbone": spec.name,
        "weights": spec.weights or None,
        **models.crf.resolved,
    }
    crf, independent = models.crf.model, models.independent.model
    weights = None if network is None else network["best"] or None
    states = {"crf": crf.state_dict(), "independent": independent.state_dict()}
    require_finite("training", states | {"backbone": weights or {}})
    return Run(
        path=out,
        labels=manifest.labels,
        settings=settings.model_copy(update=resolved),
        backbone_spec=spec,
        data=manifest.name,
        crf=crf,
        independent=independent,
        backbone_weights=weights,
        decoders=models.decoders,
    )


def _save_calibration(run: Run, models: FittedModels, validation: Examples) -> None:
    """Keep what was said of held-out images before the fit to all images."""
    marginals = {name: values for name, (values, _) in models.held_out.items()}
    targets, others = (models.held_out[name][1] for name in ("crf", "independent"))
    if not torch.equal(targets, others):  # one of the two was cross-validated, the other was not
        return
    name = f"{run.data}/validation"
    found = {
        "crf": rank_held_out(models.crf, validation, models.plan.settings),
        "independent": rank_held_out(models.independent, validation, models.plan.settings),
    }
    standings = {name: one for name, one in found.items() if one is not None}
    calibration = Calibration(
        marginals,
        targets,
        name,
        of_final=False,
        run=run.weights_digest,
        standings=standings,
        surprises=surprise_held_out(
            models.crf, validation, models.plan.settings, models.plan.inference
        ),
    )
    save_calibration(run.path, calibration.thinned(run.settings.seed))


class _Clock:
    """Wall time, by part."""

    def __init__(self) -> None:
        self._last = perf_counter()
        self.seconds: dict[str, float] = {}

    def note(self, part: str) -> None:
        now = perf_counter()
        self.seconds[part] = round(now - self._last, 2)
        self._last = now


def _check_targets(train: Manifest) -> None:
    known = train.targets >= 0
    if not known.any():
        raise DataError(
            f"{train.name}: every label of every training image is unknown; set some to 0 or 1"
        )
    for column, name in enumerate(train.labels):
        if not known[:, column].any():
            raise DataError(
                f"{train.name}: label {name!r} is unknown in every training image; remove it"
            )


def _prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: is a file; choose another --out")
    atomic.sweep(out)
    if resume and (out / STATE).exists():
        return
    if out.is_dir() and any(out.iterdir()):
        if resume:
            raise RunError(f"{out}: nothing to resume: it has no {STATE}; choose another --out")
        is_run = (out / STATE).exists() or (out / CONFIG).exists()
        if not overwrite or not is_run:
            ways = "--resume it, --overwrite it, or" if is_run else "it is not a run, so"
            raise RunError(f"{out}: exists already; {ways} choose another --out")
        _set_aside(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out}: cannot be made: {error.strerror}") from error


def _replaced(out: Path) -> Path:
    """Return where the run that a new one replaces is kept until the new one is finished."""
    return out.with_name(f".{out.name}.replaced")


def _set_aside(out: Path) -> None:
    """Make room for a new run; the last finished one is kept until then."""
    old = _replaced(out)
    if old.exists() and not (out / WEIGHTS).exists():  # a new run that was stopped
        shutil.rmtree(out)
        return
    if old.exists():
        shutil.rmtree(old)
    out.rename(old)


def _begin(
    out: Path,
    manifest: Manifest,
    plan: Plan,
    spec: BackboneSpec,
    environment: Environment,
    *,
    resume: bool,
    overwrite: bool,
) -> Stages:
    """Return the finished stages, in every process; the first creates the folder."""
    processes = environment.processes
    if processes.is_first:
        _prepare(out, resume=resume, overwrite=overwrite)
    processes.barrier()
    stages = Stages(out / STATE, _identity(manifest, plan, spec), processes)
    if processes.is_first:
        save_manifest(out / SPLITS, manifest)
    return stages


@contextmanager
def _removed_if_vain(out: Path, stages: Stages, processes: Processes) -> Iterator[None]:
    """Put back what was there after an error that the user can fix, unless it can be resumed."""
    try:
        yield
    except MlcrfError:
        if processes.is_first and not stages.count(""):
            shutil.rmtree(out)
            if _replaced(out).exists():
                _replaced(out).rename(out)
        raise


def _identity(manifest: Manifest, plan: Plan, spec: BackboneSpec) -> str:
    """Return what must be equal for a run to be resumed, as JSON."""
    digest = hashlib.sha256(manifest.targets.tobytes())
    for source, said in manifest.mentions.items():
        digest.update(source.encode() + said.tobytes())
    if manifest.features is not None:
        digest.update(manifest.features.tobytes())
    digest.update(plan.edges.numpy().tobytes())
    for image, split in zip(manifest.images, manifest.splits or (), strict=True):
        digest.update(f"{image.address}\n{split}\n".encode("utf-8", "surrogateescape"))
    return json.dumps(
        {
            "settings": plan.settings.model_dump(mode="json"),
            "labels": list(manifest.labels),
            "rules": manifest.rules.lines(manifest.labels.names),
            "weights": spec.sha256,
            "data": digest.hexdigest(),
        },
        sort_keys=True,
    )


def _summary(fitted: Fitted) -> dict[str, float]:
    penalty = {f"penalty_{key}": value for key, value in asdict(fitted.penalty).items()}
    return penalty | {"validation_loss": fitted.score} | fitted.report


def _save_record(report: TrainReport, network: Result | None) -> None:
    """Write results.csv, metrics.json and the last weights; then an old run is not needed."""
    path = report.run.path
    rows = ["epoch,train_loss,validation_loss"]
    for epoch, (loss, checked) in enumerate(network["losses"] if network else [], start=1):
        rows.append(f"{epoch},{loss:.6f},{checked:.6f}")
    if network is not None:
        atomic.write_text(path / "results.csv", "\n".join(rows) + "\n")
        atomic.write_bytes(path / "last.safetensors", save(network["last"]))
    record = {"images": report.images, "fits": report.fits, "seconds": report.seconds}
    atomic.write_text(path / "metrics.json", json.dumps(record, indent=2) + "\n")
    if _replaced(path).exists():
        shutil.rmtree(_replaced(path))
