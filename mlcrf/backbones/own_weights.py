"""Networks of timm with weights of one's own: a file, a folder, or a repository of the hub.

Weights are read from safetensors only, since other files may run code.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from mlcrf.backbones.hub_access import offline_if_unreachable
from mlcrf.backbones.registry import OWN_PREFIXES
from mlcrf.errors import BackboneError, reason_of
from mlcrf.images.framing import CropMode, Framing

_FOLDER, _HUB = OWN_PREFIXES
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_CONVERT = (
    "only safetensors are read, since other files may run code; save it in Python by "
    "safetensors.torch.save_file(state_dict, FILE)"
)
_FEW = 3
_BLACK = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Transform:
    """Side of a network's input in pixels, mean and deviation of colours, and cut and filter."""

    size_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing


@dataclass(frozen=True)
class OwnWeights:
    """A network of timm, and the file of its weights.

    Attributes:
        name: the backbone's name; a folder in it is absolute.
        model: the network's name for timm.
        file: the safetensors file.
        given_file: the same as text, if the user named it; else empty.
    """

    name: str
    model: str
    file: Path
    given_file: str = ""

    def architecture(self) -> nn.Module:
        """Return the network without a head, with random weights."""
        try:
            with torch.random.fork_rng(devices=[]):
                network: nn.Module = timm.create_model(self.model, num_classes=0)
        except Exception as error:  # whatever a config.json makes timm raise
            reason = reason_of(error)
            raise BackboneError(f"backbone {self.name!r}: timm cannot make it: {reason}") from error
        return network

    def transform(self) -> Transform:
        """Return what the network's configuration asks for.

        Raises:
            BackboneError: the network takes no square images of three colours, or cut and filter
                are none that can be used.
        """
        config = resolve_model_data_config(self.architecture())  # type: ignore[no-untyped-call]
        channels, height, width = config["input_size"]
        if channels != 3 or height != width:
            raise BackboneError(
                f"backbone {self.name!r} takes {channels} channels of {height} x {width} pixels; "
                "expected 3 channels of a square"
            )
        mean, std = tuple(config["mean"]), tuple(config["std"])
        word = config["crop_mode"]
        if word not in set(CropMode):
            raise BackboneError(
                f"backbone {self.name!r}: its configuration cannot be used: crop_mode {word!r}: "
                f"expected one of {', '.join(CropMode)}"
            )
        fill = mean if word == CropMode.BORDER else _BLACK
        try:
            framing = Framing(CropMode(word), config["crop_pct"], config["interpolation"], fill)
        except (TypeError, ValueError) as error:
            raise BackboneError(
                f"backbone {self.name!r}: its configuration cannot be used: {error}"
            ) from error
        return Transform(height, mean, std, framing)

    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        try:
            with self.file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BackboneError(
                f"{self.file}: the weights of backbone {self.name!r} cannot be read: "
                f"{error.strerror}"
            ) from error

    def make(self, sha256: str) -> nn.Module:
        """Return the network with its weights.

        Args:
            sha256: expected SHA-256 of the file.

        Raises:
            BackboneError: the file has changed, or does not fit the network.
        """
        found = self.digest()
        if found != sha256:
            raise BackboneError(
                f"{self.file}: not the weights that the run learned with (SHA-256 {found[:12]}, "
                f"expected {sha256[:12]}); restore the file, or train again"
            )
        network = self.architecture()
        try:
            given = load_file(self.file)
        except (OSError, SafetensorError) as error:
            raise BackboneError(f"{self.file}: no safetensors: {error}; {_CONVERT}") from error
        self._require_fit(given, network)
        network.load_state_dict(given, strict=False)
        return network.eval()

    def _require_fit(self, given: dict[str, Tensor], network: nn.Module) -> None:
        """Refuse weights of another network; those of its head may be there or not."""
        wanted = network.state_dict()
        head = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
        heads = (head,) if isinstance(head, str) else tuple(head)
        extra = [
            key
            for key in given
            if key not in wanted and not key.startswith(tuple(f"{one}." for one in heads))
        ]
        missing = [key for key in wanted if key not in given]
        other = [
            f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
            for key, value in wanted.items()
            if key in given and given[key].shape != value.shape
        ]
        for keys, what in ((missing, "lacks"), (extra, "has besides"), (other, "has")):
            if keys:
                more = f" and {len(keys) - _FEW} more" if len(keys) > _FEW else ""
                raise BackboneError(
                    f"{self.file}: not the weights of {self.name}: it {what} "
                    f"{', '.join(keys[:_FEW])}{more}"
                )


def find_own(name: str, weights: str | None) -> OwnWeights:
    """Return a network whose weights are the user's, or those of a folder or a repository.

    Args:
        name: a name of timm's, local-dir:FOLDER or hf-hub:ORG/NAME, perhaps with @REVISION.
        weights: the file of weights; None for that of the folder or repository.

    Raises:
        BackboneError: there is no such folder or repository, or no safetensors in it.
    """
    folder = None
    if name.startswith(_FOLDER):
        folder = Path(name.removeprefix(_FOLDER)).absolute()
        name = f"{_FOLDER}{folder}"
        if not (folder / _CONFIG).is_file():
            raise BackboneError(
                f"backbone {name!r}: has no {_CONFIG}, as timm's save_for_hf writes"
            )
    elif name.startswith(_HUB):
        folder = _fetch(name, with_weights=weights is None)
    model = name if folder is None else f"{_FOLDER}{folder}"
    if weights is not None:
        file = Path(weights).absolute()
        if file.suffix.lower() != ".safetensors":
            raise BackboneError(f"--weights {weights}: {_CONVERT}")
        return OwnWeights(name, model, file, str(file))
    assert folder is not None
    files = [folder / _WEIGHTS] if (folder / _WEIGHTS).is_file() else []
    files = files or sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        what = "no" if not files else "more than one"
        raise BackboneError(f"backbone {name!r}: {what} file of safetensors in it; {_CONVERT}")
    return OwnWeights(name, model, files[0])


def _fetch(name: str, *, with_weights: bool) -> Path:
    """Return the folder of a repository of the hub, fetched or from the cache."""
    repository, _, revision = name.removeprefix(_HUB).partition("@")
    files = (_CONFIG, _WEIGHTS) if with_weights else (_CONFIG,)
    try:
        with offline_if_unreachable():
            paths = [
                Path(hf_hub_download(repository, one, revision=revision or None)) for one in files
            ]
    except EntryNotFoundError as error:
        raise BackboneError(
            f"backbone {name!r}: the repository has no {' and '.join(files)}; {_CONVERT}"
        ) from error
    except Exception as error:  # of many kinds, by connection, name and rights
        raise BackboneError(
            f"backbone {name!r}: could not be fetched from the hub ({type(error).__name__}); check "
            "its name ORG/NAME and the connection, or use local-dir:FOLDER"
        ) from error
    return paths[0].parent
