"""Colours of the style sheet: text can be read on all that it stands on, light and dark."""

import re
from pathlib import Path

import pytest

from mlcrf import reports

CSS = (Path(reports.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
SCHEMES = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]
LEAST = 4.5  # WCAG 2.2, success criterion 1.4.3

Colour = tuple[float, float, float]


def colours(block: str) -> dict[str, Colour]:
    found = {}
    for name, value in re.findall(r"--([\w-]+): ([^;]+);", block):
        digits = re.fullmatch(r"#(\w\w)(\w\w)(\w\w)", value)
        parts = [int(one, 16) for one in digits.groups()] if digits else map(int, value.split())
        found[name] = tuple(parts)
    return found


def luminance(colour: Colour) -> float:
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: Colour, second: Colour) -> float:
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark"])
def test_text_has_contrast(scheme: str) -> None:
    """Every colour of text on every ground."""
    palette = colours(scheme)
    for ground in ("paper", "panel", "zero"):
        for text in ("ink", "soft", "crf", "base", "good", "bad"):
            assert contrast(palette[text], palette[ground]) >= LEAST, (text, ground)
