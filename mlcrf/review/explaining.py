"""Reasons for the probability of a photo's tag, with a map of where in the photo they lie."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from torch import Tensor

from mlcrf.errors import BackboneError
from mlcrf.images import Image
from mlcrf.prediction.reasons import EvidenceMap, Reasons, make_reasons, map_evidence
from mlcrf.review.beliefs import Beliefs
from mlcrf.review.photos import Photo

_MAPPED = 8  # photos whose maps of features are kept, of about 250 KB each


class Explainer:
    """Finds the reasons for what is believed about photos.

    Args:
        find_maps: see `FeatureExtractor.maps`; None for no maps of evidence.
    """

    def __init__(
        self, photos: Sequence[Photo], find_maps: Callable[[Image], tuple[Tensor, ...]] | None
    ) -> None:
        self._photos = photos
        self._find_maps = None if find_maps is None else lru_cache(_MAPPED)(find_maps)

    def explain(
        self, beliefs: Beliefs, number: int, label: int, known: Tensor, keys: Sequence[str]
    ) -> Reasons:
        """Return the reasons for the probability of a photo's tag; see `Review.explain`.

        Args:
            label: the tag among those of `beliefs`.
            known: answers about the photo's tags (K,).
            keys: names of the tags (K,).
        """
        crf, image = beliefs.crf, self._photos[number].image

        def find_map() -> EvidenceMap:
            if crf is None or self._find_maps is None:
                raise BackboneError("this review has no network")
            return map_evidence(crf, self._find_maps(image), label)

        reasons = beliefs.explain(number, label, known)
        return make_reasons(reasons, label, tuple(keys), image, find_map)
