"""Colours of the style sheet: text can be read on all that it stands on, light and dark."""

import re
from pathlib import Path

import pytest

import mlcrf.reports.webpage as webpage

CSS = (Path(webpage.__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
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
    """Every colour of text on paper, panels and empty cells, and values on every level."""
    palette = colours(scheme)
    for ground in ("paper", "panel", "zero"):
        for text in ("ink", "soft", "crf", "base", "good", "bad"):
            assert contrast(palette[text], palette[ground]) >= LEAST, (text, ground)
    levels = re.findall(
        r"\.heat \.([ar])\d \{ background: rgb\(var\(--\w+\)(?: / ([.\d]+))?\);(.*)\}", CSS
    )
    assert len(levels) == 16
    for sign, alpha, rest in levels:
        strong = palette["attract" if sign == "a" else "repel"]
        share = float(alpha or 1)
        mixed = [share * s + (1 - share) * p for s, p in zip(strong, palette["paper"], strict=True)]
        text = "on-strong" if "on-strong" in rest else "ink"
        assert contrast(palette[text], tuple(mixed)) >= LEAST, (sign, alpha)
