"""A picture and all its maps side by side, each with its legend: one picture for a page or a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from plait.inference.pictures import Pixels

if TYPE_CHECKING:
    from plait.inference.prediction import PredictedMap, Prediction

INK, PAPER = (30, 30, 30), (255, 255, 255)
GAP = 14
TALLEST = 3
"""A picture is at most so many times as high as its panel is wide; a higher one gets narrower."""
SHARE = 0.005
"""A class that covers less of a picture is not in its legend."""


def overview(prediction: Prediction, *, width: int = 400, columns: int = 3) -> Pixels:
    """Draws a picture and its maps in a grid.

    Args:
        prediction: What to draw.
        width: Of each panel, in pixels; pictures are shrunk, or enlarged, to it.
        columns: Panels in a row.

    Returns:
        ``uint8 [H, W, 3]``.
    """
    font = ImageFont.load_default(size=max(10, width // 26))
    scale = min(width / prediction.size[1], TALLEST * width / prediction.size[0])
    height, across = (max(1, round(side * scale)) for side in prediction.size)
    panels = [_panel("picture", prediction.image, [], (across, height), width, font)]
    for name, found in prediction.items():
        title = f"{name} ({found.unit})" if found.unit else name
        panels.append(
            _panel(title, found.picture, _legend(found, width, font), (across, height), width, font)
        )
    columns = max(1, min(columns, len(panels)))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), PAPER)
    top = GAP
    for row, tall in zip(rows, heights, strict=True):
        for place, panel in enumerate(row):
            sheet.paste(panel, (GAP + place * (width + GAP), top))
        top += tall + GAP
    return np.asarray(sheet).copy()


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _panel(
    title: str,
    pixels: Pixels,
    legend: Sequence[Image.Image],
    size: tuple[int, int],
    width: int,
    font: Font,
) -> Image.Image:
    """A title, a picture of this size and the lines of a legend, one below the other."""
    line = _line(font)
    panel = Image.new("RGB", (width, line + size[1] + sum(part.height for part in legend) + GAP // 2), PAPER)
    draw = ImageDraw.Draw(panel)
    draw.text((0, line // 2 - 2), title, fill=INK, font=font, anchor="lm")
    picture = Image.fromarray(pixels)
    smaller = picture.width > size[0]
    how = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    panel.paste(picture.resize(size, how, reducing_gap=2.0 if smaller else None), (0, line))
    top = line + size[1] + GAP // 2
    for part in legend:
        panel.paste(part, (0, top))
        top += part.height
    return panel


def _legend(found: PredictedMap, width: int, font: Font) -> list[Image.Image]:
    """Lines that say what colours mean: of classes those that are seen, the largest first."""
    legend = found.legend
    entries = [(text, colour) for text, colour in legend.entries if text != "unknown"]
    if found.classes:
        counts = np.bincount(found.values.ravel(), minlength=256)
        colours = dict(entries)
        seen = sorted(range(len(found.classes)), key=lambda number: -counts[number])
        entries = [
            (f"{found.classes[number]} {counts[number] / counts.sum():.0%}".replace("%", " %"), colours[name])
            for number in seen
            if counts[number] >= SHARE * counts.sum() and (name := found.classes[number]) in colours
        ]
    lines = _swatches(entries, width, font) if entries else []
    if legend.bar is not None:
        lines.append(_bar(legend.bar, legend.low, legend.high, width, font))
    return lines


def _swatches(
    entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, font: Font
) -> list[Image.Image]:
    line = _line(font)
    box = line - 8
    lines: list[Image.Image] = []
    left = width
    for text, colour in entries:
        taken = round(box + 6 + font.getlength(text) + GAP)
        if left > 0 and left + taken - GAP > width:
            lines.append(Image.new("RGB", (width, line), PAPER))
            left = 0
        draw = ImageDraw.Draw(lines[-1])
        draw.rectangle((left, 4, left + box, 4 + box), fill=colour, outline=INK)
        draw.text((left + box + 6, line // 2), text, fill=INK, font=font, anchor="lm")
        left += taken
    return lines


def _bar(bar: np.ndarray, low: str, high: str, width: int, font: Font) -> Image.Image:
    line = _line(font)
    image = Image.new("RGB", (width, line), PAPER)
    draw = ImageDraw.Draw(image)
    start, end = round(font.getlength(low)) + 8, width - round(font.getlength(high)) - 8
    draw.text((0, line // 2), low, fill=INK, font=font, anchor="lm")
    draw.text((width, line // 2), high, fill=INK, font=font, anchor="rm")
    if end - start > 8:
        stops = Image.fromarray(np.ascontiguousarray(bar[None])).resize((end - start, line - 8))
        image.paste(stops, (start, 4))
    return image


def _line(font: Font) -> int:
    """Height of a line of text."""
    return round(1.7 * float(getattr(font, "size", 10)))
