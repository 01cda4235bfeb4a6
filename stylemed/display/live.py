"""Watch a training in the notebook that runs it: the newest samples and the curves, in one output that renews itself."""

from __future__ import annotations

import base64
import warnings
from html import escape
from pathlib import Path

from stylemed.display import figures
from stylemed.display.pixels import sample_grid
from stylemed.evaluation.fidelity import verdict

DISTANCES = ["kimg", "frechet"]  # columns that a distances.csv must have to be drawn


class LiveTraining:
    """Give it to a training: `train_gan(…, on_snapshot=LiveTraining())`.

    At every snapshot it shows the newest sample grid, in whole pixels and fixed grey levels, the curves of the log,
    with the distances of `distances.csv` where the run folder has one, and the verdict on its variety. The output is
    replaced each time, so an executed notebook holds the last one only. Outside a notebook it does nothing, and what it
    cannot draw is a warning: a picture must not end a training.
    """

    def __init__(self, measure=None, width: int = 1024):
        """measure: another callback, called first, in a notebook or not, such as `evaluation.fidelity.Distances`;
        width: pixels that the samples may be wide; those of a large model are cut to fewer images."""
        self.measure, self.width = measure, width
        self._handle = self._cell = None

    def __call__(self, run, trainer=None) -> None:
        """run: the Run; trainer: for `measure` only."""
        if self.measure is not None:
            self.measure(run, trainer)
        cell = _cell()
        if cell is None:
            return
        try:
            content = self._content(run)
        except Exception as error:
            warnings.warn(f"{run.path.name} cannot be shown ({type(error).__name__}: {error})", stacklevel=2)
            return
        from IPython.display import display

        if self._handle is None or cell != self._cell:  # another cell gets an output of its own
            self._handle, self._cell = display(content, raw=True, display_id=True), cell
        else:
            self._handle.update(content, raw=True)

    def _content(self, run) -> dict[str, str]:
        """The output by MIME type."""
        parts, words = [], f"{run.path.name}: nothing to show yet"
        if files := run.samples():
            words = f"{int(files[-1].stem) / 1000:,.1f} thousand images seen"
            samples = sample_grid(files[-1], run.config["resolution"], self.width)
            parts.append(_figure(samples, "Sample images of the averaged generator", words, pixels=True))
        log = run.log() if (run.path / "log.csv").is_file() else []
        distances = _distances(run.path / "distances.csv")
        if len(log) >= 2:
            curves = figures.training_curves(log, distances, columns=2).png()
            parts.append(_figure(curves, "Charts of the training's log over the images seen"))
        if distances is not None and (said := verdict(distances)):
            parts.append(f"<p>{escape(said)}</p>")
        return {"text/html": f"<div>{''.join(parts)}</div>" if parts else escape(words), "text/plain": words}


def _cell():
    """Number of the cell that runs, in a notebook; None in a terminal or a script."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return shell.execution_count if getattr(shell, "kernel", None) is not None else None


def _distances(file: Path):
    """distances.csv as a table, or None where there is none, or nothing in it."""
    import pandas as pd

    if not file.is_file() or not file.stat().st_size:
        return None
    table = pd.read_csv(file)
    return table if len(table) and set(DISTANCES) <= set(table) else None


def _figure(png: bytes, alt: str, caption: str = "", pixels: bool = False) -> str:
    style = "max-width:100%" + (";image-rendering:pixelated" if pixels else "")
    source = base64.b64encode(png).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    image = f'<img alt="{escape(alt)}" style="{style}" src="data:image/png;base64,{source}">'
    return f'<figure style="margin:0 0 1em">{image}{below}</figure>'
