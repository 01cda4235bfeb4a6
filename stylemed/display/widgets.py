"""Sliders over CT slices: static ones that move in plain HTML, and live ones that ask the generator.

Static: every picture is made beforehand, and the browser links the sliders to nests of Stacks, so that no kernel is
needed. They hold every combination, so they are for few choices. ipywidgets 7 (Colab) has no Stack: there the kernel
drives the same widgets. Pictures have the fixed grey levels of `figures` and are enlarged by whole pixels in the PNG
itself, because a browser would smooth them.
"""

from __future__ import annotations

import ipywidgets
import numpy as np
import torch

from stylemed.display.figures import step_name
from stylemed.display.pixels import difference_png, png
from stylemed.display.sheet import COLOR_A, COLOR_B, as_slices
from stylemed.latent.direction import Direction, walk
from stylemed.latent.inversion import invert
from stylemed.latent.mixing import LEVELS, blend, describe_level, layers_of, synthesize

LARGE, SMALL = 256, 128  # pixels, about: results, sources
VIEWED = 192  # four beside each other


def is_live() -> bool:
    """True where a person sits in front of the kernel (Jupyter, Colab), False in papermill, book builds and scripts.

    A front end that can ask for input says so with every cell that it runs; machines that run notebooks do not.
    """
    try:
        from IPython import get_ipython

        return bool(getattr(get_ipython().kernel, "_allow_stdin", False))
    except (ImportError, AttributeError):
        return False


def static_slider(frames, labels, names=None, description: str = "step", start: int | None = None):
    """A slider through frames that works without a kernel.

    frames: [S, 1, R, R] in [-1, 1], or [B, S, 1, R, R] for a second slider over B slices called `names`;
    labels: S texts, shown beside the slider; start: first frame shown, default the middle one.
    """
    frames = np.asarray(frames)
    start = len(labels) // 2 if start is None else start
    if frames.ndim == 4:
        frames = frames[None]
    step = _slider(description, len(labels), start)
    pictures = [[_picture(frame) for frame in row] for row in frames]
    rows = [_row(step, _switch(step, [_text(label) for label in labels]))]
    if len(frames) == 1:
        return _column([*rows, _nest([step], pictures[0])])
    names = [f"slice {i + 1}" for i in range(len(frames))] if names is None else names
    which = _slider("slice", len(frames), 0)
    rows.insert(0, _row(which, _switch(which, [_text(name) for name in names])))
    return _column([*rows, _nest([which, step], pictures)])


def mixing_widget(a_images, b_images, grids: dict, a_names=None, b_names=None):
    """Style mixing without a kernel: sliders for source A, source B and the level that comes from B.

    a_images [na, 1, R, R], b_images [nb, 1, R, R]; grids: {level: [na, nb, 1, R, R]}. na·nb·levels pictures are stored:
    5 x 5 x 3 at 64² are about half a megabyte.
    """
    a, b = as_slices(a_images), as_slices(b_images)
    layers = 2 * int(np.log2(a.shape[-1])) - 2
    grids = {level: np.asarray(grid) for level, grid in grids.items()}
    sliders = [
        _slider("source A", len(a), 0),
        _slider("source B", len(b), 0),
        _slider("from B", len(grids), 0),
    ]
    mixtures = [[[_picture(grid[i, k]) for grid in grids.values()] for k in range(len(b))] for i in range(len(a))]
    texts = [
        _names("A", a_names, len(a)),
        _names("B", b_names, len(b)),
        [describe_level(level, layers) if level in LEVELS else level for level in grids],
    ]
    rows = [
        _row(slider, _switch(slider, [_text(t) for t in text])) for slider, text in zip(sliders, texts, strict=True)
    ]
    sources = _row(
        _titled("source A", _switch(sliders[0], [_picture(image, SMALL) for image in a]), COLOR_A),
        _titled("source B", _switch(sliders[1], [_picture(image, SMALL) for image in b]), COLOR_B),
    )
    result = _titled("A with the chosen level of B", _nest(sliders, mixtures))
    return _column([*rows, _row(sources, result)])


def counterfactual_viewer(images, edits, truth, window, labels, errors, names=None, limit: float = 100.0):
    """Slice, edit, truth and the edit's signed error in HU beside each other, without a kernel: sliders for slice and step.

    images, truth: [B, 1, R, R] in [-1, 1], the slices and what they should become; edits: [B, S, 1, R, R]; labels: S texts
    of the steps; errors: [B, S] texts, shown above the error; limit: end of its scale, HU. B · (2 S + 2) pictures are
    stored: with 4 slices and 9 steps about half a megabyte at 64² and two at 128².
    """
    images, truth, edits = as_slices(images), as_slices(truth), np.asarray(edits, dtype=float)[:, :, 0].clip(-1, 1)
    names = [f"slice {i + 1}" for i in range(len(images))] if names is None else names
    which, step = _slider("slice", len(images), 0), _slider("step", len(labels), 0)
    wrong = (edits - truth[:, None]) * window.per_unit
    maps = [[_picture_of(difference_png(error, limit, VIEWED)) for error in row] for row in wrong]
    told = [[_text(text) for text in row] for row in errors]
    walked = [[_picture(image, VIEWED) for image in row] for row in edits]
    panels = {
        "slice": _switch(which, [_picture(image, VIEWED) for image in images]),
        "edit": _nest([which, step], walked),
        "truth": _switch(which, [_picture(image, VIEWED) for image in truth]),
        f"error, ±{limit:g} HU": _nest([which, step], maps),
    }
    rows = [
        _row(which, _switch(which, [_text(name) for name in names])),
        _row(step, _switch(step, [_text(label) for label in labels])),
        _nest([which, step], told),
    ]
    return _column([*rows, _row(*(_titled(title, panel) for title, panel in panels.items()))])


def live_mixing(generator, a, b=None, a_names=None, b_names=None):
    """Style mixing in a kernel: any two sources, each level blended by its own weight (0 = A, 1 = B).

    a [na, L, latent], b [nb, L, latent] (default: the same codes as a).
    """
    a = torch.as_tensor(a)
    b, b_names = (a, a_names) if b is None else (torch.as_tensor(b), b_names)
    present = [level for level in LEVELS if layers_of(level, a.shape[-2])]
    first = _choice("source A", _names("A", a_names, len(a)))
    second = _choice("source B", _names("B", b_names, len(b)))
    second.index = min(1, len(b) - 1)
    weights = {level: _weight(describe_level(level, a.shape[-2])) for level in present}
    pictures = [
        _picture(np.zeros((8, 8)), SMALL),
        _picture(np.zeros((8, 8)), SMALL),
        _picture(np.zeros((8, 8))),
    ]

    def update(_=None):
        one, other = a[first.index], b[second.index]
        mixed = blend(one, other, {level: slider.value for level, slider in weights.items()})
        images = synthesize(generator, torch.stack([one, other, mixed]))
        for picture, image, size in zip(pictures, images, (SMALL, SMALL, LARGE), strict=True):
            picture.value = png(image, size)

    _follow(update, [first, second], weights.values())
    sources = _row(_titled("source A", pictures[0], COLOR_A), _titled("source B", pictures[1], COLOR_B))
    return _column([_row(first, second), *weights.values(), _row(sources, _titled("mixture", pictures[2]))])


def live_reconstruction(images, generator, encoder, names=None, furthest: int = 100):
    """Any slice through latent space in a kernel: by the w of the encoder, by its w+, and by up to `furthest` steps of descent.

    images [n, C, R, R] in [-1, 1], as the encoder reads them; names: n texts.
    """
    images = torch.as_tensor(images)
    which = _choice("slice", _names("slice ", names, len(images)))
    spaces = ["w", "w+"] if encoder.space == "w+" else ["w"]
    space = _choice("encoder", spaces)
    space.index = len(spaces) - 1
    steps = ipywidgets.IntSlider(
        value=0, max=furthest, step=5, description="steps", continuous_update=False, layout=_wide(), style=_style()
    )
    before, after, told = _picture(np.zeros((8, 8))), _picture(np.zeros((8, 8))), ipywidgets.HTML()

    def update(_=None):
        image = images[which.index : which.index + 1]
        with torch.no_grad():
            start = encoder(image, space=spaces[space.index])
        chosen = dict(space=spaces[space.index], steps=steps.value, progress=False)
        with torch.enable_grad():  # chapters turn gradients off
            styles = invert(generator, image, start=start, **chosen).w_plus
        again = synthesize(generator, styles).clamp(-1, 1)
        before.value, after.value = png(image), png(again)
        noise_ratio = 10 * torch.log10(4 / (again - image).square().mean())
        told.value = f"{noise_ratio:.1f} dB"

    _follow(update, [which, space], [steps])
    both = _row(_titled("slice", before), _titled("reconstruction", after))
    return _column([which, space, steps, told, both])


def live_traversal(generator, w_plus, direction: Direction, names=None, furthest: float = 6.0):
    """The walk in a kernel: any slice, any step up to ±`furthest`, along all layers or one level only."""
    w_plus = torch.as_tensor(w_plus)
    count = w_plus.shape[-2]
    choices = ["all"] + [level for level in LEVELS if layers_of(level, count)]
    which = _choice("slice", _names("slice ", names, len(w_plus)))
    where = _choice("layers", ["all layers"] + [describe_level(level, count) for level in choices[1:]])
    step = ipywidgets.FloatSlider(
        value=0, min=-furthest, max=furthest, step=0.25, description="step", layout=_wide(), style=_style()
    )
    before, after, score = _picture(np.zeros((8, 8))), _picture(np.zeros((8, 8))), ipywidgets.HTML()

    def update(_=None):
        start = w_plus[which.index]
        moved = walk(start[None], direction, [step.value], choices[where.index])[0, 0]
        images = synthesize(generator, torch.stack([start, moved]))
        before.value, after.value = png(images[0]), png(images[1])
        value = float(direction.score(moved.numpy()))
        score.value = f"score {step_name(round(value, 2))} (steps from the boundary; above 0: {direction.label})"

    _follow(update, [which, where], [step])
    both = _row(_titled("reconstruction", before), _titled("after the walk", after))
    return _column([which, where, step, score, both])


def _follow(update, choices, sliders) -> None:
    """`update` runs now, and whenever one of the controls is moved."""
    for name, controls in {"index": choices, "value": sliders}.items():
        for control in controls:
            control.observe(update, names=name)
    update()


def _switch(slider, children: list):
    """Shows the child whose number the slider has."""
    if not hasattr(ipywidgets, "Stack"):
        box = ipywidgets.VBox([children[slider.value]])
        slider.observe(lambda change: setattr(box, "children", [children[change["new"]]]), names="value")
        return box
    stack = ipywidgets.Stack(children, selected_index=slider.value)
    ipywidgets.jslink((slider, "value"), (stack, "selected_index"))
    return stack


def _nest(sliders: list, children: list):
    """A Stack for the first slider, of Stacks for the second, and so on: a browser's links cannot compute an index."""
    if len(sliders) > 1:
        children = [_nest(sliders[1:], part) for part in children]
    return _switch(sliders[0], children)


def _slider(description: str, count: int, start: int):
    return ipywidgets.IntSlider(
        value=start,
        min=0,
        max=count - 1,
        description=description,
        readout=False,
        layout=ipywidgets.Layout(width="220px", max_width="100%"),  # a caption fits beside it on a phone
        style={"description_width": "64px"},
    )


def _weight(description: str):
    return ipywidgets.FloatSlider(
        value=0, min=0, max=1, step=0.05, description=description, layout=_wide(), style=_style()
    )


def _choice(description: str, options: list[str]):
    numbered = list(zip(options, range(len(options)), strict=True))  # equal names stay apart
    return ipywidgets.Dropdown(options=numbered, value=0, description=description, layout=_wide(), style=_style())


def _picture(image, size: int = LARGE):
    return _picture_of(png(image, size))


def _picture_of(file: bytes):
    return ipywidgets.Image(value=file, format="png", layout=ipywidgets.Layout(max_width="100%"))


def _text(text: str):
    return ipywidgets.Label(value=text)


def _titled(title: str, child, color: str | None = None):
    border = f"3px solid {color}" if color else None
    if color:
        child.layout.border = border
    return ipywidgets.VBox([_text(title), child], layout=ipywidgets.Layout(margin="4px 10px 4px 0"))


def _names(letter: str, names, count: int) -> list[str]:
    numbers = [f"{letter}{i + 1}" for i in range(count)]
    return numbers if names is None else [f"{n}: {name}" for n, name in zip(numbers, names, strict=True)]


def _row(*children):
    return ipywidgets.HBox(children, layout=ipywidgets.Layout(flex_flow="row wrap", align_items="flex-start"))


def _column(children):
    return ipywidgets.VBox(children, layout=ipywidgets.Layout(max_width="100%"))


def _wide():
    return ipywidgets.Layout(width="300px", max_width="100%")


def _style():
    return {"description_width": "110px"}
