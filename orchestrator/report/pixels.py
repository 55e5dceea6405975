"""Pixels as a picture that stands in a page, and restored pictures beside each other as one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageDraw, ImageFont

from orchestrator.report.blocks import Plate, View, visible

HEADER = "data:image/png;base64,"
WIDEST, GAP, LINE = 1200, 8, 18  # pixels: of a row of pictures, between two of them, and of a line of text
SMALL, ENLARGED = 200, 288  # pictures narrower than the first are shown as wide as the second
RIGHT, WRONG, INK = (0, 110, 80), (170, 50, 0), (30, 30, 30)


def picture(pixels: np.ndarray) -> str:
    """``(H, W)`` or ``(H, W, C)`` uint8 as a PNG in a ``data:`` address."""
    gray = pixels.ndim == 3 and pixels.shape[2] == 1
    return HEADER + base64.b64encode(_png(Image.fromarray(pixels[:, :, 0] if gray else pixels))).decode()


def comparison(plates: Sequence[Plate]) -> bytes:
    """A PNG with a row for each plate: its pictures side by side, or below each other where they are wide."""
    rows = [_row(plate) for plate in plates]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height + GAP for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return _png(sheet)


def _row(plate: Plate) -> Image.Image:
    cells = [_cell(plate, view) for view in plate.views]
    across = sum(cell.width + GAP for cell in cells) <= WIDEST
    wide = sum(cell.width + GAP for cell in cells) if across else max(cell.width for cell in cells)
    high = max(cell.height for cell in cells) if across else sum(cell.height for cell in cells)
    row = Image.new("RGB", (wide, high + LINE), "white")
    ImageDraw.Draw(row).text((2, 0), visible(f"{plate.truth}  {plate.sample}"), fill=INK, font=_font())
    left, top = 0, LINE
    for cell in cells:
        row.paste(cell, (left, top))
        left, top = (left + cell.width + GAP, top) if across else (left, top + cell.height)
    return row


def _cell(plate: Plate, view: View) -> Image.Image:
    """One picture, below it what is read in it."""
    shown = Image.open(io.BytesIO(base64.b64decode(view.image.removeprefix(HEADER)))).convert("RGB")
    widest = max(Image.open(io.BytesIO(base64.b64decode(each.image.removeprefix(HEADER)))).width
                 for each in plate.views)  # fmt: skip
    if widest < SMALL:
        size = (ENLARGED, max(1, round(shown.height * ENLARGED / shown.width)))
        shown = shown.resize(size, Image.Resampling.NEAREST)
    cell = Image.new("RGB", (shown.width, shown.height + LINE), "white")
    cell.paste(shown, (0, 0))
    says = visible(f"{view.name}: {view.reading}") if view.read else view.name
    colour = INK if not view.read else RIGHT if view.right else WRONG
    ImageDraw.Draw(cell).text((2, shown.height), says, fill=colour, font=_font())
    return cell


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(findfont("DejaVu Sans"), 12)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
