"""Pictures for checking a run by eye: a thumbnail per scan, and contact sheets of the kept and the rejected."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..io.files import write_whole

if TYPE_CHECKING:
    import pandas  # not for the workers

TILE = (150, 180)  # pixels, width and height, of one thumbnail
THUMBNAIL_HU = (-20, 100)  # a soft-tissue window in which bone is white and air black; our choice
SHEET_TILES = 120  # at most so many scans on a sheet, spread evenly over the cohort
COLUMNS = 3
SLICES = 4  # of each scan
LABEL = 16  # pixels, height of the text under a tile


def shown_slices(num_slices: int) -> np.ndarray:
    """Indices (4,) of the slices in a picture; the second and third are neighbours, in which a mixture shows."""
    lower, middle, upper = np.linspace(0, num_slices - 1, 5).round().astype(int)[1:4]
    return np.array([lower, middle, middle + 1, upper]).clip(0, num_slices - 1)


def thumbnail(slices: np.ndarray, low: float, high: float, pixel_aspect: float = 1.0) -> Image.Image:
    """Slices (N, H, W) side by side, windowed from `low` to `high`; `pixel_aspect` is height over width."""
    grey = np.clip((slices.astype(np.float32) - low) / (high - low), 0, 1)
    tiles = [Image.fromarray((255 * one).astype(np.uint8)) for one in grey]
    width, height = TILE
    strip = Image.new("L", (width * len(tiles), height))
    for i, tile in enumerate(tiles):
        scale = min(width / tile.width, height / (tile.height * pixel_aspect))
        size = max(1, round(tile.width * scale)), max(1, round(tile.height * pixel_aspect * scale))
        strip.paste(tile.resize(size), (i * width + (width - size[0]) // 2, (height - size[1]) // 2))
    return strip


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    write_whole(path, lambda temporary: image.save(temporary, format="PNG"))


def contact_sheet(rows: "pandas.DataFrame", folder: Path, title: str) -> Image.Image:
    """The slices of one scan for each row, with its name and reason; grey where no picture may be made."""
    shown = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), SHEET_TILES)).round().astype(int))]
    columns = min(COLUMNS, max(len(shown), 1))
    width, height = SLICES * TILE[0], TILE[1] + 2 * LABEL
    lines = max(1, -(-len(shown) // columns))
    sheet = Image.new("L", (columns * width, lines * height + 2 * LABEL), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    subset = "" if len(shown) == len(rows) else f" ({len(shown)} of them, spread evenly)"
    draw.text((4, 8), f"{title}: {len(rows)}{subset}", fill=0, font=ImageFont.load_default(size=15))
    for number, row in enumerate(shown.itertuples()):
        x, y = number % columns * width, number // columns * height + 2 * LABEL
        path = folder / f"{row.scan_id}.png"
        if path.exists():
            with Image.open(path) as strip:
                sheet.paste(strip.crop((0, 0, min(strip.width, width - 2), TILE[1])), (x, y))
        else:
            draw.rectangle((x, y, x + width - 2, y + TILE[1]), fill=128)
            draw.text((x + 30, y + TILE[1] // 2), "no picture", fill=255, font=font)
        draw.text((x + 3, y + TILE[1]), row.reason or row.scan_id, fill=0, font=font)
        if row.reason:
            draw.text((x + 3, y + TILE[1] + LABEL - 3), row.scan_id, fill=90, font=font)
    return sheet
