"""Runs with random weights, photos with odd names, and pages taken apart."""

import os
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mlcrf.backbones.extractor import FeatureExtractor
from mlcrf.backbones.registry import Tiny, find_spec
from mlcrf.checkpoint import Run, save_run
from mlcrf.choices import EngineName
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest
from mlcrf.evaluation import Answers, Evaluation, answer, score
from mlcrf.images import as_image
from mlcrf.labels import LabelSpace
from mlcrf.model import LabelCrf, no_edges
from mlcrf.reports.webpage import Gallery, save_report
from mlcrf.rules import Rules

OWNED = "document.title='owned'"
HOSTILE_LABELS = (
    f'<img src=x onerror="{OWNED}">',
    f"<script>{OWNED}</script>",
    f'"><svg onload={OWNED}>',
    f"</style></script><script>{OWNED}</script>",
    f"javascript:{OWNED}",
    "{{ 7 * 7 }}{% raw %}",
    "=cmd|'/C calc'!A0",
    "&lt&#60<!--",
    "gpj.\u202eexe",
    "bell\x07 and \x1b[31m",
    "x" * 300,
)
HOSTILE_FILES = (
    b"two\nlines.jpg",
    b"\xff\xfe.jpg",
    f'"><img src=x onerror="{OWNED}">.jpg'.encode(),
    b"=1+1.jpg",
    b'it\'s "quoted".jpg',
    b"--out.jpg",
)


def make_photos(
    folder: Path, names: tuple[bytes, ...], *, size: tuple[int, int] = (48, 32)
) -> list[Path]:
    """Noise, a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [folder / os.fsdecode(name) for name in names]
    for path in paths:
        noise = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(noise).resize(size).save(path, "JPEG")
    return paths


def make_run(
    folder: Path,
    labels: tuple[str, ...],
    *,
    edges: torch.Tensor | None = None,
    rules: list[list[int]] | None = None,
    scenes: int = 0,
) -> Run:
    """A run with random weights on the small network, saved."""
    torch.manual_seed(0)
    rules = Rules(tuple((child, parent) for child, parent in rules or ()))
    crf = LabelCrf(Tiny.num_features, len(labels), edges=edges, rules=rules, scenes=scenes)
    independent = LabelCrf(Tiny.num_features, len(labels), edges=no_edges())
    for model in (crf, independent):
        torch.nn.init.normal_(model.output.weight, std=0.3)
        torch.nn.init.normal_(model.pairwise)
        if model.shifts is not None:
            torch.nn.init.normal_(model.shifts)
    folder.mkdir(parents=True)
    spec = find_spec("tiny")
    space = LabelSpace(labels)
    return save_run(Run(folder, space, TrainSettings(), spec, "data", crf, independent, None))


def draw_targets(run: Run, images: list[Path], *, unknown: float = 0.0) -> NDArray[np.int8]:
    """Labels at random, of which 0.4 are present."""
    rng = np.random.default_rng(1)
    shape = (len(images), len(run.labels))
    targets = (rng.random(shape) < 0.4).astype(np.int8)
    targets[rng.random(shape) < unknown] = -1
    return targets


def ask(
    run: Run, images: list[Path], targets: NDArray[np.int8] | None = None
) -> tuple[Answers, Evaluation]:
    """What a run says of images, whose labels are drawn if none are given."""
    targets = draw_targets(run, images) if targets is None else targets
    manifest = Manifest(tuple(map(as_image, images)), targets, run.labels, None, "data")
    extractor = FeatureExtractor(run.make_backbone(), engine=EngineName.TORCH)
    answers = answer(run, manifest, extractor, with_surprise=True)
    return answers, score(run, answers, split="test", resamples=20)


def write_page(path: Path, run: Run, images: list[Path], gallery: Gallery = Gallery()) -> str:  # noqa: B008
    """The page of `ask`, as text."""
    answers, result = ask(run, images)
    save_report(path, run, answers, result, gallery)
    return path.read_text(encoding="utf-8")


@dataclass
class Page(HTMLParser):
    """A page taken apart: tags with their attributes, text, and text of scripts and styles."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    code: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in ("script", "style"):
            self.code.append((self._within, data))
        else:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all tags of a name."""
        return [attributes for name, attributes in self.tags if name == tag]


def taken_apart(text: str) -> Page:
    """Parsed, with nothing left over."""
    page = Page()
    page.feed(text)
    page.close()
    return page
