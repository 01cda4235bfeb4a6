"""Slices as PNG, in whole pixels: -1 is black and 1 white, whatever they hold, and nothing is smoothed.

A training's sample grids are cut into their images here too; `training.run.grid_png` writes them.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from stylemed.display.sheet import DIFFERENCE
from stylemed.statistics import evenly_spaced


def png(image, size: int = 256, sides: bool = True) -> bytes:
    """A slice [R, R] or [1, R, R] in [-1, 1] as a grey PNG, enlarged by the whole factor that comes nearest to `size`.

    -1 is black and 1 white, whatever the slice holds. sides: R and L of the patient in the lower corners.
    """
    image = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image, dtype=float)
    image = image.reshape(image.shape[-2:])
    factor = max(1, round(size / image.shape[-1]))
    picture = _enlarged(np.round((image.clip(-1, 1) + 1) * 127.5).astype(np.uint8), factor)
    if sides:
        draw, (width, height) = ImageDraw.Draw(picture), picture.size
        style = {"fill": 190, "font_size": max(10, width // 16), "stroke_width": 1, "stroke_fill": 0}
        draw.text((4, height - 3), "R", anchor="ld", **style)
        draw.text((width - 4, height - 3), "L", anchor="rd", **style)
    return _file(picture)


def difference_png(change, limit: float, size: int = 256) -> bytes:
    """A signed difference [R, R] or [1, R, R] between -limit and limit as a PNG in colours (`sheet.DIFFERENCE`): 0 is black."""
    change = np.asarray(change, dtype=float)
    change = change.reshape(change.shape[-2:])
    colors = DIFFERENCE((change / limit).clip(-1, 1) / 2 + 0.5, bytes=True)[..., :3]
    return _file(_enlarged(colors, max(1, round(size / change.shape[-1]))))


def animation(images, milliseconds: int = 110) -> bytes:
    """Frames [n, 1, R, R] in [-1, 1] as an animated WebP that repeats for ever, pixel for pixel and without loss."""
    frames = np.round((np.asarray(images, dtype=float)[:, 0].clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    first, *others = (Image.fromarray(frame).convert("RGB") for frame in frames)  # WebP knows no single channel
    file = io.BytesIO()
    how = dict(save_all=True, append_images=others, duration=milliseconds, loop=0, lossless=True, method=6)
    first.save(file, "WEBP", **how)
    return file.getvalue()


def sample_grid(file: Path, side: int, width: int = 1024) -> bytes:
    """A run's sample grid as PNG: as many whole images of `side` pixels as fit into width × width / 2 pixels,
    enlarged by a whole factor. Pixels keep their values exactly."""
    pixels = np.asarray(Image.open(file))
    rows, columns = max(1, width // 2 // side), max(1, width // side)
    pixels = pixels[: rows * side, : columns * side]
    return _file(_enlarged(pixels, max(1, width // pixels.shape[1])))


def sample_history(run, rows: int = 4, columns: int = 6, before=()) -> dict[str, np.ndarray]:
    """The same latents while the generator learned: {"2.0 kimg": images [columns, 1, R, R] in [-1, 1]}.

    Read from the run's sample grids (8 bit), evenly spread over the training, with the first and the last. before: the runs it
    began from, oldest first; their images are counted too, and their latents may be others.
    """
    files, seen = [], 0  # (images seen, grid)
    for one in (*before, run):
        grids = [(int(file.stem), file) for file in one.samples()]
        files += [(seen + nimg, file) for nimg, file in grids]
        seen += max((nimg for nimg, _ in grids), default=0)
    chosen = evenly_spaced(len(files), rows)
    side = run.config["resolution"]
    return {
        f"{nimg / 1000:.1f} kimg": _cells(Image.open(file), side)[:columns]
        for nimg, file in map(files.__getitem__, chosen)
    }


def strip(history: dict[str, np.ndarray]) -> bytes:
    """What `sample_history` gives as one PNG, a row of images for each moment, which knows its rows' names."""
    rows = np.stack([images[:, 0] for images in history.values()])  # [rows, columns, R, R]
    pixels = np.round((rows.clip(-1, 1) + 1) * 127.5).astype(np.uint8).swapaxes(1, 2)
    names = PngInfo()
    names.add_text("rows", json.dumps(list(history)))
    return _file(Image.fromarray(pixels.reshape(-1, pixels.shape[2] * pixels.shape[3])), pnginfo=names)


def read_strip(file: Path, rows: int | None = None) -> dict[str, np.ndarray]:
    """What `strip` wrote, as `sample_history` gives it; `rows` of it, evenly spread, with the first and the last."""
    picture = Image.open(file)
    names = json.loads(picture.text["rows"])
    side = picture.height // len(names)
    cells = _cells(picture, side).reshape(len(names), -1, 1, side, side)
    chosen = evenly_spaced(len(names), rows or len(names))
    return {names[i]: cells[i] for i in chosen}


def _cells(picture: Image.Image, side: int) -> np.ndarray:
    """The squares of a grid, row by row: [n, 1, side, side] in [-1, 1]."""
    grid = np.asarray(picture.convert("L"), dtype=np.float32) / 127.5 - 1
    across = grid.shape[1] // side
    return grid.reshape(-1, side, across, side).swapaxes(1, 2).reshape(-1, 1, side, side)


def stacked(pictures: list[bytes]) -> Image.Image:
    """PNG files below each other, each in the middle, on white."""
    parts = [Image.open(io.BytesIO(picture)).convert("RGB") for picture in pictures]
    page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        page.paste(part, ((page.width - part.width) // 2, top))
        top += part.height
    return page


def _enlarged(pixels: np.ndarray, factor: int) -> Image.Image:
    """uint8 [H, W] or [H, W, 3], each pixel a square of factor × factor."""
    return Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))


def _file(picture: Image.Image, **more) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True, **more)
    return buffer.getvalue()
