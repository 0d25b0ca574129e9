"""The network of a training run: which one it is, and whether its last stage is trained."""

from functools import partial
from typing import assert_never

from mlcrf.backbones.network_split import split_network
from mlcrf.backbones.registry import (
    TABLE,
    Backbone,
    BackboneSpec,
    Source,
    find_spec,
    make_backbone,
    table_spec,
)
from mlcrf.choices import Finetune
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.errors import SettingsError
from mlcrf.training.extraction import Environment
from mlcrf.training.plan import MOST_PAIRED, Plan
from mlcrf.training.progress import Log
from mlcrf.training.stacking import ENOUGH
from mlcrf.training.stages import Result, Stages

_MOST_IMAGES = 50_000  # whose activations fit in memory, as a rule


def find_backbone(settings: TrainSettings, manifest: Manifest) -> BackboneSpec:
    """Return the settings' backbone, or that of a table of numbers.

    Raises:
        SettingsError: the backbone does not go with the data, or with the setting `finetune`.
    """
    is_default = settings.backbone == TrainSettings.model_fields["backbone"].default
    if manifest.feature_names:
        if settings.weights or settings.views > 1 or not (is_default or settings.backbone == TABLE):
            given = "--weights" if settings.weights else f"--backbone {settings.backbone}"
            given = f"--views {settings.views}" if settings.views > 1 else given
            raise SettingsError(
                f"{given}: {manifest.name} is a table of numbers, which no network reads; leave it "
                "out"
            )
        if settings.trains_network or settings.albums:
            raise SettingsError(
                f"--finetune and --album are for images; {manifest.name} is a table of numbers; "
                "leave them out"
            )
        return table_spec(manifest.feature_names)
    if settings.backbone == TABLE:
        raise SettingsError(
            f"--backbone table: {manifest.name} has images and no features; give a table of "
            "numbers, or leave it out"
        )
    spec = find_spec(settings.backbone, settings.weights, views=settings.views)
    if spec.source is Source.SCRATCH and settings.finetune is not Finetune.ALL:
        raise SettingsError(f"backbone {spec.name} has no published weights; add --finetune all")
    if spec.part_specs and settings.finetune is Finetune.ALL:
        raise SettingsError(
            f"--finetune all trains one network, and backbone {spec.name} has several; use "
            "--finetune last, which trains each, or name one"
        )
    return spec


def resolve_finetune(
    settings: TrainSettings, spec: BackboneSpec, manifest: Manifest, *, is_hinted: bool
) -> TrainSettings:
    """Return the settings with LAST or NONE in place of AUTO.

    LAST where it was measured to help: networks of the package, up to 64 labels, a linear head; and
    not so many images that their activations would fill a disk. The features of training images
    then know more than those of new ones. So there must be as many validation images as judge
    alone, and training images must have nothing to tell beside the labels: what hints and sources
    are worth, whole albums.

    Args:
        manifest: images of all splits.
        is_hinted: whether hints are learned from.
    """
    if settings.finetune is not Finetune.AUTO:
        return settings
    helps = (
        spec.source is Source.PACKAGE
        and len(manifest) <= _MOST_IMAGES
        and len(manifest.labels) <= MOST_PAIRED
        and (manifest.splits or ()).count(Split.VALIDATION) >= ENOUGH
        and not settings.hidden_units
        and not settings.cross_validation
        and not settings.albums
        and not manifest.mentions
        and not is_hinted
    )
    return settings.with_finetune(Finetune.LAST if helps else Finetune.NONE)


def make_network(spec: BackboneSpec, settings: TrainSettings) -> Backbone:
    """Build the backbone; refuse one that cannot be fine-tuned, before anything is made."""
    backbone = make_backbone(spec, seed=settings.seed)
    if settings.finetune is Finetune.LAST:
        for one in backbone.parts or (backbone,):
            split_network(one)
    return backbone


def train_network(
    backbone: Backbone,
    parts: tuple[Manifest, Manifest],
    plan: Plan,
    stages: Stages,
    environment: Environment,
    log: Log,
) -> Result | None:
    """Fine-tune the backbone, in place, if the settings want it.

    Returns:
        What the training gave, with `best` as `Run.backbone_weights` has it: empty if the published
        weights are to be kept.
    """
    match plan.settings.finetune:
        case Finetune.NONE | Finetune.AUTO:
            return None
        case Finetune.LAST:
            from mlcrf.training.last_stage import finetune_last

            train = partial(finetune_last, backbone, *parts, plan, stages, log, environment)
        case Finetune.ALL:
            from mlcrf.training.finetune import finetune  # brings torchvision, two seconds

            train = partial(finetune, backbone, *parts, plan, stages, log, environment)
        case other:
            assert_never(other)
    network = stages.run("network", train)
    return network | {"best": backbone.take(network["best"])}
