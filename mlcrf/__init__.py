"""Multi-label image tagging with a CNN and an exactly inferred CRF over label sets."""

from typing import TYPE_CHECKING, Any

from mlcrf.version import __version__

if TYPE_CHECKING:
    from mlcrf.prediction import Tagger

__all__ = ["Tagger", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what is heavy when it is first asked for, so that `import mlcrf` is instant."""
    if name == "Tagger":
        from mlcrf.prediction import Tagger

        return Tagger
    raise AttributeError(f"module 'mlcrf' has no attribute {name!r}")
