"""Draw one scene, in which each label shows its mark independently."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from mlcrf.synthetic.planted import PlantedCrf

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Visibility:
    """Probabilities of a mark if its label is present, and if it is absent (a look-alike)."""

    if_present: float
    if_absent: float


EASY_TO_SEE = Visibility(if_present=0.95, if_absent=0.02)
HARD_TO_SEE = Visibility(if_present=0.55, if_absent=0.20)

IN_THE_SKY = ("sunset", "night", "bird")
ON_THE_GROUND = ("building", "tree", "car", "people", "dog", "flower")


@dataclass(frozen=True)
class Place:
    """A square of the image that a mark may fill, in pixels."""

    left: float
    top: float
    side: float

    def at(self, across: float, down: float) -> tuple[float, float]:
        """Return a point of the square, from (0, 0) at its upper left to (1, 1)."""
        return self.left + across * self.side, self.top + down * self.side

    def box(self, left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
        """Return a box of the square, as Pillow takes it."""
        return *self.at(left, top), *self.at(right, bottom)


Mark = Callable[[ImageDraw.ImageDraw, Place, np.random.Generator], None]


def draw_marks(
    present: NDArray[np.int8], planted: PlantedCrf, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw which marks a scene shows (L,), each given only its own label."""
    kinds = [visibility(name, planted) for name in planted.labels]
    if_present = np.array([kind.if_present for kind in kinds])
    if_absent = np.array([kind.if_absent for kind in kinds])
    chance = np.where(present == 1, if_present, if_absent)
    return np.asarray(rng.random(len(chance)) < chance)


def visibility(name: str, planted: PlantedCrf) -> Visibility:
    """Return the probabilities with which each label's mark is drawn."""
    return HARD_TO_SEE if name in planted.hard else EASY_TO_SEE


def draw_scene(
    present: NDArray[np.int8], planted: PlantedCrf, rng: np.random.Generator, *, image_size_px: int
) -> Image.Image:
    """Draw one scene for a label set.

    Whether a mark is shown depends only on its label (`draw_marks`); places that do not overlap are
    drawn for all labels, present or not. So a mark carries no information about other labels, and
    p(y | scene) has the couplings of p(y).

    Args:
        present: the label set (L,), 0 or 1.
        rng: the same state gives the same pixels.
    """
    shown = draw_marks(present, planted, rng)
    places = _deal_places(rng, image_size_px)
    image = _background(rng, image_size_px)
    pencil = ImageDraw.Draw(image)
    for name, mark in MARKS.items():
        if shown[planted.labels.index(name)]:
            mark(pencil, places[name], rng)
    return _weathered(image, rng)


def _deal_places(rng: np.random.Generator, size: int) -> dict[str, Place]:
    whole = Place(0, 0, size)
    places = dict.fromkeys(MARKS, whole)
    column = size / 3
    for name, slot in zip(IN_THE_SKY, rng.permutation(3), strict=True):
        places[name] = Place(slot * column, 0, column)
    for name, slot in zip(ON_THE_GROUND, rng.permutation(6), strict=True):
        side = column * rng.uniform(0.88, 1.0)
        left = slot % 3 * column + rng.uniform(0, column - side)
        top = size / 3 + slot // 3 * column + rng.uniform(0, column - side)
        places[name] = Place(left, top, side)
    return places


def _background(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a muted ground with a gradient of light and coarse and fine texture."""
    ground = rng.uniform(115, 160) + rng.uniform(-10, 10, size=3)
    slope = np.linspace(-1, 1, size)[:, None, None] * rng.uniform(-20, 20)
    coarse = rng.normal(0, 5, size=(8, 8, 3)).repeat(math.ceil(size / 8), 0)
    coarse = coarse.repeat(math.ceil(size / 8), 1)[:size, :size]
    pixels = np.clip(ground + slope + coarse, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).filter(ImageFilter.BoxBlur(size / 32))
    pencil = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 6)):
        x, y, across, down = rng.uniform((0, 0, -0.2, -0.2), (1, 1, 0.2, 0.2)) * size
        colour = _near(rng, (128, 128, 128), 45)
        pencil.line((x, y, x + across, y + down), fill=colour, width=_width(size, 0.015))
    return image


def _weathered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur the scene slightly, change its brightness and add noise."""
    soft = image.filter(ImageFilter.GaussianBlur(image.width / 64 * rng.uniform(0, 0.5)))
    pixels = np.asarray(soft, dtype=np.float64) * rng.uniform(0.8, 1.1)
    pixels += rng.normal(0, rng.uniform(1, 6), size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _near(rng: np.random.Generator, colour: Colour, spread: int) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.integers(-spread, spread + 1, 3), 0, 255)
    return int(red), int(green), int(blue)


def _one_of(rng: np.random.Generator, *colours: Colour) -> Colour:
    return _near(rng, colours[rng.integers(len(colours))], 18)


def _width(side: float, share: float) -> int:
    return max(1, round(side * share))


def _sky(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    top = np.array(_near(rng, (70, 130, 225), 20))
    horizon = np.array(_near(rng, (175, 210, 245), 15))
    rows = round(place.side * rng.uniform(0.24, 0.34))
    for row in range(rows):
        red, green, blue = (top + (horizon - top) * row / rows).astype(int).tolist()
        pencil.line((0, row, place.side, row), fill=(red, green, blue))


def _sea(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    top = rng.uniform(0.33, 0.38)
    bottom = top + rng.uniform(0.13, 0.18)
    pencil.rectangle(place.box(0, top, 1, bottom), fill=_near(rng, (15, 110, 130), 20))
    foam = _near(rng, (150, 215, 215), 20)
    for height in np.arange(top + 0.03, bottom, 0.05):
        phase = rng.uniform(0, math.tau)
        across = np.linspace(0, 1, 17)
        wave = [place.at(x, height + 0.012 * math.sin(phase + 25 * x)) for x in across]
        pencil.line(wave, fill=foam, width=1)


def _beach(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    top = rng.uniform(0.82, 0.90)
    pencil.rectangle(place.box(0, top, 1, 1), fill=_near(rng, (235, 205, 130), 14))
    grain = _near(rng, (190, 155, 90), 14)
    for x, y in rng.uniform((0, top), (1, 1), size=(24, 2)):
        pencil.point(place.at(x, y), fill=grain)


def _sunset(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    radius = rng.uniform(0.24, 0.34)
    x, y = rng.uniform((0.4, 0.45), (0.6, 0.6))
    for share, colour in ((1.4, (215, 80, 60)), (1.0, (250, 140, 40)), (0.6, (255, 205, 80))):
        r = radius * share
        pencil.ellipse(place.box(x - r, y - r, x + r, y + r), fill=_near(rng, colour, 14))


def _night(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    dark = _near(rng, (15, 18, 50), 12)
    pencil.rectangle(place.box(0.03, 0.03, 0.97, 0.92), fill=dark)
    for x, y in rng.uniform((0.1, 0.1), (0.9, 0.85), size=(7, 2)):
        pencil.point(place.at(x, y), fill=(255, 255, 230))
    x, y = rng.uniform((0.3, 0.3), (0.6, 0.6))
    pencil.ellipse(place.box(x - 0.2, y - 0.2, x + 0.2, y + 0.2), fill=(245, 240, 200))
    pencil.ellipse(place.box(x - 0.1, y - 0.24, x + 0.28, y + 0.14), fill=dark)


def _building(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    left, right = rng.uniform((0.02, 0.85), (0.15, 0.98))
    wall = _one_of(rng, (70, 75, 95), (95, 95, 105))
    pencil.rectangle(place.box(left, 0, right, 1), fill=wall)
    window = _near(rng, (250, 225, 110), 14)
    for across in (0.16, 0.6):
        for down in (0.1, 0.4, 0.7):
            x = left + across * (right - left)
            pencil.rectangle(place.box(x, down, x + 0.18, down + 0.16), fill=window)


def _tree(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    pencil.rectangle(place.box(0.42, 0.5, 0.58, 1), fill=_near(rng, (95, 60, 30), 14))
    leaves = _one_of(rng, (30, 125, 40), (60, 145, 40))
    if rng.random() < 0.4:
        for down in (0.0, 0.25):
            corners = [place.at(0.5, down), place.at(0.02, down + 0.5), place.at(0.98, down + 0.5)]
            pencil.polygon(corners, fill=leaves)
    else:
        pencil.ellipse(place.box(0.02, 0.0, 0.98, 0.7), fill=leaves)


def _car(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    paint = _one_of(rng, (205, 30, 35), (225, 60, 30))
    pencil.rectangle(place.box(0.02, 0.5, 0.98, 0.82), fill=paint)
    roof = [place.at(0.2, 0.5), place.at(0.34, 0.26), place.at(0.7, 0.26), place.at(0.84, 0.5)]
    pencil.polygon(roof, fill=paint)
    pencil.rectangle(place.box(0.38, 0.33, 0.66, 0.48), fill=(165, 205, 225))
    for x in (0.24, 0.76):
        pencil.ellipse(place.box(x - 0.13, 0.7, x + 0.13, 0.96), fill=(20, 20, 20))


def _people(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    for x in (0.25, 0.72):
        skin = _one_of(rng, (235, 190, 160), (150, 100, 70), (95, 60, 45))
        shirt = _one_of(rng, (60, 170, 170), (240, 240, 120))
        pencil.ellipse(place.box(x - 0.11, 0.05, x + 0.11, 0.29), fill=skin)
        pencil.rectangle(place.box(x - 0.13, 0.31, x + 0.13, 0.64), fill=shirt)
        for foot in (-0.09, 0.09):
            leg = (*place.at(x, 0.6), *place.at(x + foot, 1))
            pencil.line(leg, fill=(30, 30, 60), width=_width(place.side, 0.09))


def _dog(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    coat = _one_of(rng, (125, 75, 35), (100, 60, 30))
    pencil.ellipse(place.box(0.15, 0.4, 0.75, 0.72), fill=coat)
    pencil.ellipse(place.box(0.62, 0.2, 0.95, 0.52), fill=coat)
    pencil.polygon([place.at(0.66, 0.3), place.at(0.7, 0.05), place.at(0.8, 0.25)], fill=coat)
    pencil.line((*place.at(0.18, 0.5), *place.at(0.03, 0.22)), fill=coat, width=2)
    for x in (0.25, 0.38, 0.55, 0.67):
        leg = (*place.at(x, 0.6), *place.at(x, 0.95))
        pencil.line(leg, fill=coat, width=_width(place.side, 0.09))


def _flower(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    pencil.line(
        (*place.at(0.5, 0.4), *place.at(0.5, 1)), fill=(50, 140, 50), width=_width(place.side, 0.08)
    )
    petals = _one_of(rng, (225, 60, 170), (190, 80, 220))
    turn = rng.uniform(0, math.tau)
    for petal in range(5):
        x = 0.5 + 0.23 * math.cos(turn + petal * math.tau / 5)
        y = 0.36 + 0.23 * math.sin(turn + petal * math.tau / 5)
        pencil.ellipse(place.box(x - 0.15, y - 0.15, x + 0.15, y + 0.15), fill=petals)
    pencil.ellipse(place.box(0.37, 0.23, 0.63, 0.49), fill=(250, 220, 60))


def _bird(pencil: ImageDraw.ImageDraw, place: Place, rng: np.random.Generator) -> None:
    feathers = _near(rng, (250, 250, 250), 14)
    for x, y in ((0.3, rng.uniform(0.2, 0.45)), (0.65, rng.uniform(0.5, 0.8))):
        wings = ((-0.28, -0.14), (-0.1, -0.16), (0, 0), (0.1, -0.16), (0.28, -0.14), (0, 0.14))
        pencil.polygon([place.at(x + dx, y + dy) for dx, dy in wings], fill=feathers)


# from background to foreground
MARKS: Mapping[str, Mark] = {
    "sky": _sky,
    "sea": _sea,
    "beach": _beach,
    "sunset": _sunset,
    "night": _night,
    "building": _building,
    "tree": _tree,
    "car": _car,
    "people": _people,
    "dog": _dog,
    "flower": _flower,
    "bird": _bird,
}
