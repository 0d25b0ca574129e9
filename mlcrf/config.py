"""Settings of a training run, in one frozen value that is saved with the run."""

import json
import reprlib
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlcrf.choices import (
    Finetune,
    InferenceName,
    ObjectiveName,
    Pairwise,
    Precision,
    Schedule,
    Structure,
)
from mlcrf.errors import SettingsError
from mlcrf.hints import choose, describe_fault, did_you_mean, expected


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8, which config.json is written in") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Strength = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1)]
_OF_LAST = {"epochs": 5, "batch_size": 32, "weight_decay": 1.0}  # defaults of --finetune last


class TrainSettings(BaseModel):
    """Settings of `mlcrf train`; their descriptions and bounds are those of its options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Text = Field(
        default="lite0",
        description="Network: lite0, lite1, lite2, tiny or a name of timm's; local-dir:FOLDER or "
        "hf-hub:ORG/NAME, as timm saves networks; lite0@288 takes images of 288 px; lite0+lite1 "
        "concatenates the features of both.",
    )
    weights: Text | None = Field(
        default=None,
        description="File of weights (.safetensors) for the network of timm's that --backbone "
        "names.",
    )
    views: int = Field(
        default=1,
        ge=1,
        le=4,
        description="Number of views of an image whose features are averaged: 2 adds the mirrored "
        "image, 3 the enlarged one, 4 both together; 2, 3.7 and 5.3 times the cost.",
    )
    finetune: Finetune = Field(
        default=Finetune.AUTO,
        description="`last` trains the last stage of each network too, on what layers before it "
        "give; `all` trains all of it, which takes hours or a GPU; tiny, which has no published "
        "weights, needs it. `auto` is `last` with lite0, lite1 and lite2 for up to 64 labels, at "
        "least 400 validation images and at most 50,000 images, and where labels are all that is "
        "learned from; else `none`.",
    )
    structure: Structure = Field(
        default=Structure.AUTO,
        description="Pairs of labels with a coupling: all, none, the Chow-Liu tree of the training "
        "labels, the strongest of each label, or those of a file; `latent` is a mixture over "
        "latent scenes instead. `auto` is all pairs of up to 64 labels; of more, the strongest or "
        "the tree, whichever does better on validation images.",
    )
    edges_per_label: int = Field(
        default=8,
        ge=1,
        description="Largest number of partners that a label chooses for --structure sparse, by "
        "mutual information.",
    )
    false_edges: float = Field(
        default=0.05,
        gt=0,
        le=1,
        description="Expected share of --structure sparse's pairs that are related by chance only; "
        "1 takes every label's strongest partners.",
    )
    edges_file: Text | None = Field(
        default=None,
        description="File of pairs for --structure file: two label names a line, separated by a "
        "comma.",
    )
    scenes: int = Field(
        default=8, ge=2, le=1000, description="Number of scenes for --structure latent."
    )
    albums: bool = Field(
        default=False,
        description="With --structure latent: learn how scenes follow each other among the images "
        "of a folder, by the time they were taken.",
    )
    album_gap_minutes: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        le=1e7,
        description="Longest gap between two images of an album.",
    )
    pairwise: Pairwise = Field(
        default=Pairwise.CONSTANT, description="`conditional` couplings vary by image."
    )
    rank: int = Field(
        default=4, ge=1, le=256, description="Number of terms of --pairwise conditional."
    )
    objective: ObjectiveName = Field(
        default=ObjectiveName.AUTO,
        description="Loss that is minimised; `auto` is exact likelihood where exact inference "
        "reaches, else contrastive divergence.",
    )
    schedule: Schedule = Field(
        default=Schedule.AUTO,
        description="`joint` learns weights and couplings together; `piecewise` keeps the "
        "baseline's weights and learns couplings and biases; `stacked` does so on the baseline's "
        "log-odds of images that it did not see. `auto` is stacked, or joint where that is "
        "within reach and better on held-out images.",
    )
    structure_weights: tuple[Weight, ...] = Field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        description="Shares of what the CRF learned beyond the baseline, to choose from on "
        "validation images, by groups of labels: 0 is the baseline, 1 the CRF as it was fitted.",
    )
    joint_share: Weight = Field(
        default=0.1,
        description="Share of the loss of whole label sets in that choice; the rest is the loss of "
        "single labels.",
    )
    inference: InferenceName = Field(
        default=InferenceName.AUTO,
        description="Inference method of the run; `auto` follows the objective, else exact, else "
        "Gibbs.",
    )
    hidden_units: int = Field(
        default=0, ge=0, le=65536, description="Hidden units of the head; 0 is a linear head."
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of features and hidden units that are left out at random; above 0 the "
        "head is the mean of several members, and weight_decay replaces penalties.",
    )
    members: int = Field(
        default=5,
        ge=2,
        le=100,
        description="Number of members of a head with dropout; each learns from all images but "
        "its part.",
    )
    mean_field_sweeps: int = Field(
        default=10, ge=1, le=1000, description="Sweeps of mean field, in training and decoding."
    )
    chains: int = Field(
        default=10, ge=1, le=10_000, description="Chains an image of contrastive divergence."
    )
    chain_sweeps: int = Field(
        default=2, ge=1, le=1000, description="Sweeps of a chain between two steps."
    )
    steps: int = Field(
        default=100,
        ge=10,
        le=100_000,
        description="Steps of contrastive divergence; blended-convex-bp makes twice as many.",
    )
    max_exact_labels: int = Field(
        default=24, ge=1, le=40, description="Largest number of labels for exact inference."
    )
    penalties: tuple[Strength, ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3, 1.0),
        min_length=1,
        description="L2 penalties on the head's weights to choose from, each about three times "
        "the one before. The list grows while its first or last is the best.",
    )
    pairwise_penalties: tuple[Strength, ...] = Field(
        default=(1e-4, 1e-3, 1e-2),
        min_length=1,
        description="L2 penalties on couplings to choose from.",
    )
    pairwise_l1: tuple[Size, ...] = Field(
        default=(0.0,), min_length=1, description="L1 penalties on couplings to choose from."
    )
    cross_validation: bool = Field(
        default=False,
        description="With fewer than 400 validation images, choose penalties and thresholds on "
        "the training images too, fold by fold; takes up to six times as long.",
    )
    pos_weight: Strength = Field(
        default=1.0,
        description="Weight of a present label, relative to an absent one, in the independent "
        "objective.",
    )
    focus_positive: Size = Field(
        default=0.0, description="Exponent of the asymmetric loss for present labels."
    )
    focus_negative: Size = Field(
        default=0.0, description="Exponent of the asymmetric loss for absent labels."
    )
    margin: float = Field(
        default=0.0, ge=0, lt=1, description="Probability margin of the asymmetric loss."
    )
    tolerance: Strength = Field(
        default=1e-6, description="Convergence: estimated loss still to gain, in nats per image."
    )
    exact_tolerance: Strength = Field(
        default=1e-3, description="Tolerance for the objectives whose gradient is expensive."
    )
    epochs: int = Field(
        default=10,
        ge=1,
        description="Epochs of --finetune and of a head with dropout; 5 with --finetune last, "
        "unless given.",
    )
    learning_rate: Strength = Field(
        default=1e-3,
        description="Learning rate of the same.",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        description="Images a batch of the same; 32 with --finetune last, unless given.",
    )
    gradient_accumulation: int = Field(
        default=1,
        ge=1,
        le=4096,
        description="Parts of a batch whose gradients --finetune all computes one after the "
        "other, to save memory; batch normalisation sees one part at a time.",
    )
    min_crop: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Smallest share of an image's area that a random crop of --finetune all keeps; "
        "1 does not crop.",
    )
    precision: Precision = Field(
        default=Precision.AUTO,
        description="Precision of the network in --finetune all; `auto` is bfloat16 where the "
        "accelerator has it, else float32.",
    )
    weight_decay: float = Field(
        default=0.05,
        ge=0,
        allow_inf_nan=False,
        description="Weight decay of --finetune and of a head with dropout; 1 with --finetune "
        "last, unless given.",
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="Random seed.")

    @property
    def trains_network(self) -> bool:
        """Return whether the network is trained, too; AUTO, which data resolve, counts as no."""
        return self.finetune in (Finetune.LAST, Finetune.ALL)

    def with_finetune(self, choice: Finetune) -> "TrainSettings":
        """Return the settings with another `finetune`, and what goes best with it if not given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return TrainSettings.model_validate(given | {"finetune": choice})

    @model_validator(mode="before")
    @classmethod
    def _suit_finetune(cls, given: Any) -> Any:
        """Fill in what --finetune last does better with than with the other defaults."""
        if isinstance(given, dict) and given.get("finetune") == Finetune.LAST:
            return _OF_LAST | given
        return given


def make_settings(
    config: Path | None = None, overrides: tuple[str, ...] = (), **given: Any
) -> TrainSettings:
    """Merge settings from a JSON file, `key=value` texts and named values; the later wins.

    Args:
        config: an object of settings, or the config.json of a run.
        given: values by name; None means not given.

    Raises:
        SettingsError: no such file, no JSON object, an unknown key or a value out of range.
    """
    in_file = _load_settings(config) if config else {}
    later: dict[str, Any] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise SettingsError(f"--set {' '.join(text.split())}: expected key=value")
        later[key.strip()] = _parsed(value.strip())
    later |= {key: value for key, value in given.items() if value is not None}
    values = in_file | later
    source = {key: "" if key in later else f"{config}: " for key in values}
    for key in values:
        if key not in TrainSettings.model_fields:
            hint = did_you_mean(key, TrainSettings.model_fields)
            raise SettingsError(f"{source[key]}unknown setting {key!r}{hint}")
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{source[str(first['loc'][0])]}setting {name}: {_refusal(dict(first))}"
        ) from None


def accepted(name: str) -> tuple[Any, dict[str, float]]:
    """Return the type of a setting, and its bounds as `mlcrf.hints.expected` takes them."""
    field = TrainSettings.model_fields[name]
    bounds = {
        key: getattr(one, key)
        for one in field.metadata
        for key in ("ge", "gt", "le", "lt")
        if hasattr(one, key)
    }
    return field.annotation, bounds


def _refusal(fault: dict[str, Any]) -> str:
    """Return what a setting accepts, and what was given."""
    got = fault["input"]
    if len(fault["loc"]) == 1 and fault["type"] != "value_error":
        kind, bounds = accepted(str(fault["loc"][0]))
        if isinstance(kind, type) and issubclass(kind, Enum):
            return choose(got, kind)
        if kind in (int, float, bool):
            return f"expected {expected(kind, **bounds)}, got {reprlib.repr(got)}"
    return f"{describe_fault(fault)}, got {reprlib.repr(got)}"


def _load_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file of settings, or those that a run was given.

    What was `auto` in the run's command is `auto` again.
    """
    values = load_json(path)
    if not {"format", "settings"} <= values.keys():
        return values
    settings, made_by = values["settings"], values.get("made_by", {})
    automatic = made_by.get("auto", []) if isinstance(made_by, dict) else None
    if not isinstance(settings, dict) or not isinstance(automatic, list):
        wrong = "made_by" if isinstance(settings, dict) else "settings"
        raise SettingsError(f"{path}: {wrong}: not as a run writes it")
    if "finetune" in automatic and settings.get("finetune") == Finetune.LAST:
        settings = {key: value for key, value in settings.items() if _OF_LAST.get(key) != value}
    return {name: value for name, value in settings.items() if name not in automatic}


def load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object, such as config.json.

    Raises:
        SettingsError: the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a JSON object of settings")
    return values


def _parsed(text: str) -> Any:
    """Return a value as JSON if it is valid, else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
