"""Mixtures over latent scenes (`SceneSum` infers `ScenePotentials`), and albums of images."""

from mlcrf.latent.albums import (
    AlbumScores,
    SceneChain,
    choose_transitions,
    fit_transitions,
    share_in_albums,
)
from mlcrf.latent.scene_potentials import ScenePotentials
from mlcrf.latent.scene_sum import SceneSum

__all__ = [
    "AlbumScores",
    "SceneChain",
    "ScenePotentials",
    "SceneSum",
    "choose_transitions",
    "fit_transitions",
    "share_in_albums",
]
