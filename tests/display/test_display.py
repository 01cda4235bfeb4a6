"""Figures keep grey levels and labels apart; every slider position leads to the right picture."""

import io
import json
import re

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets.embed import dependency_state, embed_minimal_html
from matplotlib.colors import to_hex
from PIL import Image

from stylemed.data import Window
from stylemed.display import figures, widgets
from stylemed.latent import Direction, mix
from stylemed.networks import Encoder, Generator

torch.set_num_threads(1)

WINDOW = Window(-100.0, 250.0)
rng = np.random.default_rng(0)


def slices(*shape, side=16):
    return rng.uniform(-0.5, 0.5, (*shape, 1, side, side))


def texts(figure):
    found = [t for t in figure.texts]
    for ax in figure.axes:
        found += ax.texts + ax.get_xticklabels()
    return [t for t in found if t.get_text()]


def no_text_overlaps(figure):
    """Neither does any text overlap another nor leave the figure."""
    renderer = figure.canvas.get_renderer()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts(figure)]
    width, height = figure.canvas.get_width_height()
    for i, (name, box) in enumerate(boxes):
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, name
        for other, box2 in boxes[i + 1 :]:
            assert not box.overlaps(box2), (name, other)


def grey_images(figure):
    return [
        image
        for ax in figure.axes
        for image in ax.images
        if image.get_cmap().name == "gray" and len(ax.images[0].get_array()) > 1
    ]


def check_slices(figure, count):
    shown = grey_images(figure)
    assert len(shown) == count
    assert all(image.get_clim() == (-1.0, 1.0) and image.get_interpolation() == "nearest" for image in shown)
    no_text_overlaps(figure)
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_slices_keep_their_grey_levels_and_whole_pixels():
    labels = np.zeros((5, 16, 16), int)
    labels[:, 4:9, 4:9] = 1
    labels[:, 5:7, 5:7] = 2
    image = slices(5)
    titles = [f"a very long name of case {i}" for i in range(5)]
    figure = figures.show_slices(image, labels, titles, WINDOW, columns=3, frames="#ffffff")
    check_slices(figure, 5)
    assert {"R", "L", "−100", "250", titles[4]} <= {t.get_text() for t in texts(figure)}
    outlines = [line for line in figure.axes[0].collections]
    assert [len(line.get_segments()) for line in outlines] == [
        20,
        8,
    ]  # edges of a 5 x 5 and of a 2 x 2 square
    # what is drawn is what was given, to matplotlib's rounding: the middle of each pixel has the grey of its value
    picture = np.asarray(Image.open(io.BytesIO(figures.show_slices(image[:1], sides=False)._repr_png_())))[..., 0]
    side = 448
    top, left = np.argwhere(picture != picture[0, 0])[0]
    whole = picture[top : top + side, left : left + side]
    cell = side // 16
    np.testing.assert_allclose(whole[cell // 2 :: cell, cell // 2 :: cell], (image[0, 0] + 1) * 127.5, atol=1.6)


def test_rows_mixing_and_traversal_are_labelled():
    check_slices(figures.show_rows({"slice": slices(3), "reconstruction": slices(3)}, list("abc"), None, WINDOW), 6)
    grids = {"coarse": slices(2, 4), "middle": slices(2, 4), "fine": slices(2, 4)}
    figure = figures.mixing_figure(slices(2), slices(4), grids, WINDOW)
    check_slices(figure, 2 * 3 + 4 + 3 * 8)
    words = " ".join(t.get_text() for t in texts(figure))
    assert "coarse 4²–8² from B" in words and "fine: no layers at 16²" in words and "B4" in words and "A2" in words

    images, steps = slices(2, 3), [-2, 0, 2]
    labels = np.ones((2, 16, 16), int)
    figure = figures.traversal_figure(images, steps, WINDOW, images[:, 1], labels)
    check_slices(figure, 2 * 4)
    changes = [ax.images[0] for ax in figure.axes if ax.images and ax.images[0].get_cmap().name == "change"]
    changes = [image for image in changes if image.get_array().shape == (16, 16)]
    assert len(changes) == 6 and not changes[1].get_array().any()
    np.testing.assert_allclose(changes[0].get_array(), (images[0, 0, 0] - images[0, 1, 0]) * 175)
    low, high = changes[0].get_clim()
    assert low == -high and high >= max(abs(c.get_array()).max() for c in changes)
    no_text_overlaps(figures.traversal_figure(images, steps))


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 512])
def test_figure_1_on_paper_is_as_wide_as_a_text_and_has_a_along_the_top(side):
    a, b, grid = slices(3, side=side), slices(2, side=side), slices(3, 2, side=side)
    figure = figures.mixing_figure(a, b, {"coarse": grid, "8": grid}, WINDOW, paper=True, weight=0.5)
    check_slices(figure, 3 + 2 * (2 + 6))
    width, dpi = figure.get_size_inches()[0], figure.dpi
    assert width * 25.4 == pytest.approx(170) and 300 <= dpi
    words = {t.get_text(): t for t in texts(figure)}
    assert {"sources A →", "A3", "B2", "coarse 4²–8² from B, weight 0.5", "8² from B, weight 0.5"} <= set(words)
    assert min(t.get_fontsize() for t in words.values()) / 2 > 4  # points, where the figure is one of two columns
    shown = grey_images(figure)
    drawn = [image.get_array() for image in shown if np.array_equal(image.get_array(), grid[2, 1, 0])]
    assert len(drawn) == 2  # once in each block
    places = {k: next(i.axes for i in shown if np.array_equal(i.get_array(), grid[k, 1, 0])) for k in (0, 2)}
    assert places[0].get_position().y0 == places[2].get_position().y0  # one row: the same B


def test_the_difference_of_a_reconstruction_is_in_hu():
    real, again = slices(3), slices(3)
    figure = figures.reconstruction_figure(real, again, WINDOW, limit=80.0)
    check_slices(figure, 6)
    drawn = [ax.images[0] for ax in figure.axes if ax.images and ax.images[0].get_cmap().name == "change"]
    differences = [image for image in drawn if image.get_array().shape == (16, 16)]
    np.testing.assert_allclose(differences[1].get_array(), (again[1, 0] - real[1, 0]) * 175)
    assert [image.get_clim() for image in differences] == [(-80.0, 80.0)] * 3


def test_charts_have_named_axes():
    log = pd.DataFrame({"kimg": range(9), "loss_d": range(9), "loss_g": range(9), "r1": range(9), "minutes": range(9)})
    figure = figures.curves(log)
    assert len(figure.axes) == 2 and figure.axes[-1].get_xlabel() == "images seen, in thousands"
    assert figure._repr_png_()[:4] == b"\x89PNG"
    figure = figures.lines([0, 1], {"liver": [0, 2]}, "step", "HU", {"liver": ([0, 1], [0, 3])})
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("step", "HU")


# --- widgets


def walk_widgets(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk_widgets(child)


def sliders_of(widget):
    return {w.description: w for w in walk_widgets(widget) if isinstance(w, ipywidgets.IntSlider)}


def page_state(widget, tmp_path):
    """What the HTML page of a widget holds: id -> state."""
    state = dependency_state([widget], drop_defaults=False)
    embed_minimal_html(tmp_path / "page.html", views=[widget], state=state)
    page = (tmp_path / "page.html").read_text()
    script = re.search(r'application/vnd.jupyter.widget-state\+json">\s*(.*?)\s*</script>', page, re.S).group(1)
    return {key: value["state"] for key, value in json.loads(script)["state"].items()}


def browser(state, positions):
    """Do what the browser does: set sliders by description, follow the links -> {stack id: shown child id}."""
    values = {key: positions.get(s.get("description")) for key, s in state.items()}
    for link in (s for s in state.values() if s.get("_model_name") == "LinkModel"):
        (source, name), (target, trait) = [
            (ref.removeprefix("IPY_MODEL_"), trait) for ref, trait in (link["source"], link["target"])
        ]
        assert (name, trait) == ("value", "selected_index")
        state[target]["selected_index"] = values[source]
    return {
        key: s["children"][s["selected_index"]].removeprefix("IPY_MODEL_")
        for key, s in state.items()
        if s.get("_model_name") == "StackModel"
    }


def nested(root, shown):
    while root in shown:
        root = shown[root]
    return root


def test_static_slider_shows_the_frame_of_its_position(tmp_path):
    frames, labels = slices(2, 3), ["−1", "0", "+1"]
    widget = widgets.static_slider(frames, labels, names=["p1", "p2"])
    assert sliders_of(widget)["step"].value == 1
    ids = {w.value: w.model_id for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image)}
    outer = next(
        w
        for w in walk_widgets(widget)
        if isinstance(w, ipywidgets.Stack) and isinstance(w.children[0], ipywidgets.Stack)
    )
    for which in range(2):
        for step in range(3):
            shown = browser(page_state(widget, tmp_path), {"slice": which, "step": step})
            assert nested(outer.model_id, shown) == ids[widgets.png(frames[which, step])]
    single = widgets.static_slider(frames[0], labels)
    assert len([w for w in walk_widgets(single) if isinstance(w, ipywidgets.Image)]) == 3


def test_mixing_widget_holds_every_mixture(tmp_path):
    a, b = slices(2), slices(3)
    grids = {"coarse": slices(2, 3), "middle": slices(2, 3)}
    widget = widgets.mixing_widget(a, b, grids, a_names=["x", "y"])
    assert list(sliders_of(widget)) == ["source A", "source B", "from B"]
    ids = {w.value: w.model_id for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image)}
    stacks = [w for w in walk_widgets(widget) if isinstance(w, ipywidgets.Stack)]
    outer = next(w for w in stacks if isinstance(w.children[0], ipywidgets.Stack))
    for i, k, level in np.ndindex(2, 3, 2):
        shown = browser(page_state(widget, tmp_path), {"source A": i, "source B": k, "from B": level})
        assert nested(outer.model_id, shown) == ids[widgets.png(list(grids.values())[level][i, k])]
        visible = set(shown.values())
        assert ids[widgets.png(a[i], widgets.SMALL)] in visible and ids[widgets.png(b[k], widgets.SMALL)] in visible


def test_counterfactual_viewer_sets_each_edit_beside_its_truth(tmp_path):
    images, truth, edits = slices(2, side=64), slices(2, side=64), slices(2, 3, side=64)
    texts = [[f"{which} {step}" for step in range(3)] for which in range(2)]
    widget = widgets.counterfactual_viewer(images, edits, truth, WINDOW, ["0", "−1", "−2"], texts)
    ids = {w.value: w.model_id for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image | ipywidgets.Label)}
    state = page_state(widget, tmp_path)
    for which, step in np.ndindex(2, 3):
        shown = browser(state, {"slice": which, "step": step})
        visible = {nested(root, shown) for root in shown}
        error = (edits[which, step] - truth[which]) * WINDOW.per_unit
        files = [widgets.png(image, widgets.VIEWED) for image in (images[which], edits[which, step], truth[which])]
        files.append(widgets.difference_png(error, 100.0, widgets.VIEWED))
        assert {ids[file] for file in [*files, texts[which][step]]} <= visible
    none = np.asarray(Image.open(io.BytesIO(widgets.difference_png(np.diag([0.0, 100, -100]), 100.0, 3))))
    assert none[0].max() <= 2 and none[1, 1, 0] > none[1, 1, 2] and none[2, 2, 2] > none[2, 2, 0]  # orange, blue
    size = sum(len(w.value) for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image))
    assert (
        size * (2 * 9 + 2) * 4 / (2 * 8) * 4 / 3 < 3e6
    )  # of noise, which no file makes smaller, for 4 slices and 9 steps


def test_png_has_fixed_grey_and_whole_pixels():
    image = slices(1, side=64)[0]
    picture = np.asarray(Image.open(io.BytesIO(widgets.png(image, sides=False))))
    assert picture.shape == (256, 256)
    np.testing.assert_array_equal(picture, np.kron(np.round((image[0] + 1) * 127.5), np.ones((4, 4))))
    assert np.asarray(Image.open(io.BytesIO(widgets.png(slices(1, side=512)[0])))).shape == (512, 512)


def test_without_stack_the_kernel_moves_the_pictures(monkeypatch):
    monkeypatch.delattr(ipywidgets, "Stack")  # ipywidgets 7
    frames = slices(3)
    widget = widgets.static_slider(frames, ["a", "b", "c"])
    sliders_of(widget)["step"].value = 2
    shown = [w.value for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image)]
    assert shown == [widgets.png(frames[2])]


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(resolution=32, latent_size=16, mapping_layers=2, fmap_base=128, fmap_max=16).eval()


@pytest.mark.slow
def test_live_widgets_ask_the_generator(generator):
    with torch.no_grad():
        codes = generator.broadcast(generator.mapping(torch.randn(3, 16)))
    widget = widgets.live_mixing(generator, codes)
    parts = {getattr(w, "description", ""): w for w in walk_widgets(widget)}
    assert "fine" not in " ".join(parts)  # a 32² model has no such layers
    parts["source A"].index, parts["source B"].index, parts["coarse 4²–8²"].value = 2, 0, 1.0
    images = [w for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image)]
    with torch.no_grad():
        wanted = generator.synthesis(torch.stack([codes[2], codes[0], mix(codes[2], codes[0], "coarse")]))
    assert images[2].value == widgets.png(wanted[2]) and images[0].value == widgets.png(wanted[0], widgets.SMALL)

    direction = Direction(np.eye(16, dtype=np.float32)[0], 0.0, 2.0, "tumor")
    widget = widgets.live_traversal(generator, codes, direction)
    parts = {getattr(w, "description", ""): w for w in walk_widgets(widget)}
    before, after = (w for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image))
    assert before.value == after.value
    parts["step"].value, parts["layers"].index = 3.0, 1
    moved = codes[0].clone()
    moved[:4, 0] += 6.0
    with torch.no_grad():
        wanted = generator.synthesis(torch.stack([codes[0], moved]))
    assert after.value == widgets.png(wanted[1]) != before.value
    assert not widgets.is_live()

    torch.manual_seed(1)
    encoder = Encoder(32, latent_size=16, num_layers=8, space="w", trunk="resnet18", shortcut=8).eval()
    encoder.linear.weight.data.normal_()
    images = generator.synthesis(codes).detach().clamp(-1, 1)
    widget = widgets.live_reconstruction(images, generator, encoder)
    parts = {getattr(w, "description", ""): w for w in walk_widgets(widget)}
    before, after = (w for w in walk_widgets(widget) if isinstance(w, ipywidgets.Image))
    parts["slice"].index = 2
    with torch.no_grad():
        assert after.value == widgets.png(generator.synthesis(encoder(images[2:])))
    assert before.value == widgets.png(images[2])
    told = next(w for w in walk_widgets(widget) if isinstance(w, ipywidgets.HTML))
    error = float(told.value.split()[0])
    parts["steps"].value = 20
    assert float(told.value.split()[0]) > error  # descent comes nearer


def test_ways_stand_beside_their_slice_with_errors_in_hu():
    real = slices(2)
    figure = figures.ways_figure(real, {"encoder W": real + 0.1, "1,000 steps": real}, WINDOW)
    check_slices(figure, 6)
    assert {"slice", "encoder W", "error", "slice 2", "0 HU"} <= {t.get_text() for t in texts(figure)}
    off = 0.1 * WINDOW.per_unit
    assert f"{off:.0f} HU" in {t.get_text() for t in texts(figure)}
    errors = [image for ax in figure.axes for image in ax.images if image.get_clim() == (-100.0, 100.0)]  # and the bar
    assert len(errors) == 5 and np.allclose(errors[0].get_array(), off)


def test_bars_stand_for_their_values():
    figure = figures.bars(["a", "b"], {"slice": [1, 2], "again": [0.5, 0]}, "share", {"again": ([0.25, 0], [0.75, 0])})
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [1, 2, 0.5, 0] and figure.axes[0].get_legend().get_texts()[1].get_text() == "again"


def test_a_level_has_one_colour_in_all_charts():
    series = {"coarse": [1, 2], "fine": [2, 1], "noise": [0, 1]}
    bars = figures.bars(["a", "b"], series, "share").axes[0].patches[::2]
    lines = figures.lines([0, 1], series, "x", "y", zero=False).axes[0].lines
    for level, bar, line in zip(("coarse", "fine"), bars, lines, strict=False):
        assert to_hex(bar.get_facecolor()) == to_hex(line.get_color()) == figures.LEVEL_COLORS[level]
    assert to_hex(bars[2].get_facecolor()) not in figures.LEVEL_COLORS.values()


def test_a_heatmap_of_differences_has_a_shade_for_each_sign():
    table = pd.DataFrame({"11 patients": [0.02, -0.1]}, index=["painted", "generated only"])
    ax = figures.heatmap(table, "difference", (-0.1, 0.1), bold=table < -0.05).axes[0]
    assert [t.get_text() for t in ax.texts] == ["+0.02", "−0.10"]
    assert [t.get_fontweight() for t in ax.texts] == ["normal", "bold"]
    shade = ax.images[0].cmap(ax.images[0].norm(table["11 patients"]))
    assert shade[0, 2] > shade[0, 0] and shade[1, 0] > shade[1, 2]  # more: blue, less: red


def test_a_heatmap_holds_its_numbers():
    table = pd.DataFrame({"coarse": [0.25, 1.0], "all styles": [np.nan, -0.5]}, index=["tumor", "phase"])
    figure = figures.heatmap(table, "share")
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.texts] == ["0.25", "–", "1.00", "−0.50"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["coarse", "all\nstyles"]
    np.testing.assert_array_equal(ax.images[0].get_array(), table.to_numpy())
    figure.png()  # lays it out
    no_text_overlaps(figure)
