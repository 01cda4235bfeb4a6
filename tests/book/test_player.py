"""The page Play: what it reads, and in a headless Chromium its numbers against PyTorch's and every control."""

import base64
import contextlib
import functools
import gzip
import hashlib
import http.server
import json
import math
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import find, play_page, ramps, raw_page
from scipy.stats import binomtest

from stylemed.book import publishing
from stylemed.book.player import write_parts, write_player
from stylemed.latent.direction import Direction, walk
from stylemed.latent.mixing import mix
from stylemed.networks import Generator

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
RUNTIME = STATIC / "vendor" / "onnxruntime" / "runtime.js"
LATENT = 32


def test_runtime_is_what_its_readme_says():
    part = json.loads(RUNTIME.read_text().removeprefix("self.stylemedParts.runtime = ").removesuffix(";\n"))
    rows = re.findall(r"\| `(\w+)` \| `\S+` \| (\d+) \| `(\w{64})` \|", (RUNTIME.parent / "README.md").read_text())
    assert {name for name, _, _ in rows} == part.keys()
    for name, size, digest in rows:
        content = gzip.decompress(base64.b64decode(part[name]))
        assert (len(content), hashlib.sha256(content).hexdigest()) == (int(size), digest)


def test_without_a_generator_nothing_is_written(tmp_path):
    assert write_player(tmp_path / "artifacts", RUNTIME, tmp_path / "out") is False
    assert not list(tmp_path.iterdir())
    assert "about: null" in (STATIC / "play" / "about.js").read_text()


def test_parts_are_made_again_only_when_what_is_played_with_changes(tmp_path, monkeypatch):
    made = []

    def write(artifacts, runtime, out):
        made.append(artifacts)
        (out / "model.js").write_text("model")

    monkeypatch.setattr("stylemed.book.player.write_player", write)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "play.md").touch()
    weights = tmp_path / "artifacts" / "gan" / "generator.safetensors"
    weights.parent.mkdir(parents=True)
    for content, times in [("a", 1), ("a", 1), ("b", 2)]:
        weights.write_text(content)
        assert (publishing.player(tmp_path, tmp_path) / "model.js").is_file() and len(made) == times
    (tmp_path / "player" / "model.js").write_text("by hand")
    publishing.player(tmp_path, tmp_path)
    assert len(made) == 3 and (tmp_path / "player" / "model.js").read_text() == "model"


# ---- in a browser ---------------------------------------------------------------------------------------

in_a_browser = pytest.mark.skipif(find() is None, reason="no Chromium")


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    made = Generator(64, 1, latent_size=LATENT, mapping_layers=4, fmap_base=256, fmap_max=16, mapping_normalized=True)
    for name, strength in made.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.normal_(strength, std=0.3)
    made.w_avg.normal_(std=0.3)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def directions():
    vectors = np.linalg.qr(np.random.default_rng(0).standard_normal((LATENT, 2)))[0].T.astype(np.float32)
    return [Direction(vectors[0], 0.0, 0.7, "tumor"), Direction(vectors[1], 0.0, 0.4, "fat", layers=[2, 3])]


@pytest.fixture(scope="module")
def page(generator, directions, tmp_path_factory):
    pytest.importorskip("onnxscript")
    site = tmp_path_factory.mktemp("site")
    page = play_page(site)
    write_parts(site / "_static" / "play", RUNTIME, generator, directions, ramps())
    return page


def normals(seed, count):
    """The page's own random numbers, written a second time: Mulberry32, then Box and Muller."""
    state, out = seed, []

    def uniform():
        nonlocal state
        state = (state + 0x6D2B79F5) % 2**32
        t = (state ^ state >> 15) * (state | 1) % 2**32
        t ^= (t + (t ^ t >> 7) * (t | 61)) % 2**32
        return ((t ^ t >> 14) % 2**32) / 2**32

    while len(out) < count:
        radius, angle = math.sqrt(-2 * math.log(1 - uniform())), 2 * math.pi * uniform()
        out += [radius * math.cos(angle), radius * math.sin(angle)]
    return torch.tensor(out[:count])


def noise_of(generator, seed):
    sides = [len(n[0, 0]) for n in generator.noise_maps()]
    parts = normals(seed, sum(side**2 for side in sides)).split([side**2 for side in sides])
    return [part.reshape(1, 1, side, side) for part, side in zip(parts, sides, strict=True)]


def expected(generator, directions, state):
    """{result, a, b}: the images [R, R] PyTorch makes of what the page says is set."""
    seeds = torch.stack([normals(state[name], LATENT) for name in "ab"])
    a, b = generator.truncate(generator.broadcast(generator.mapping(seeds)), state["psi"])
    layers = [layer for level in state["levels"] for layer in (range(0, 4), range(4, 8), range(8, 10))[level]]
    styles = mix(a, b, layers)[None]
    for direction, steps in zip(directions, state["steps"], strict=True):
        styles = walk(styles, direction, [steps])[:, 0]
    noise = None if state["noise"] is None else noise_of(generator, state["noise"])
    images = generator.synthesis(torch.cat([styles, a[None], b[None]]), noise)
    return dict(zip(("result", "a", "b"), images[:, 0].numpy(), strict=True))


def compare(tab, generator, directions):
    """The numbers and the pixels on the page against PyTorch's; returns what is set, and the largest difference."""
    tab.run("stylemedPlay.player.settled")
    state = tab.run("stylemedPlay.player.state")
    apart = 0.0
    shown = tab.run("Object.keys(stylemedPlay.player.last)")
    for name, image in expected(generator, directions, state).items():
        if name not in shown:  # a figure in a chapter shows less
            continue
        found = np.array(tab.run(f"Array.from(stylemedPlay.player.last.{name})")).reshape(64, 64)
        np.testing.assert_allclose(found, image, atol=1e-3, err_msg=f"{name}, {state}")
        apart = max(apart, np.abs(found - image).max())
        slice_ = "result" if name == "result" else f"sources.{name}"
        canvas = f"stylemedPlay.player.{slice_}.canvas"
        drawn = tab.run(f"Array.from({canvas}.getContext('2d').getImageData(0, 0, 64, 64).data)")
        pixels = np.array(drawn).reshape(64, 64, 4)
        grey = np.floor((found.clip(-1, 1) + 1) * 127.5 + 0.5)
        assert (pixels[..., :3] == grey[..., None]).all() and (pixels[..., 3] == 255).all()
    return state, apart


def begin(tab, address, **size):
    tab.open(address, **size)
    read = [name for name in tab.requests if re.search(r"model|runtime|slices", name)]
    assert read == [] and re.search(r"\d\.\d MB", tab.run("document.querySelector('#play-generator').innerText"))
    tab.click("#play-generator button")
    tab.until("!!stylemedPlay.player?.first_image")


@pytest.mark.slow
@in_a_browser
def test_every_control_does_what_pytorch_does(page, generator, directions, tab, one_thread):
    begin(tab, page.as_uri())
    state, _ = compare(tab, generator, directions)
    assert state == {"a": 1, "b": 2, "psi": 0.7, "levels": [], "steps": [0, 0], "noise": None}

    def change(act, **to):
        """Something is done; the page then says and shows what is expected."""
        act()
        now, _ = compare(tab, generator, directions)
        before.update({name: now[name] if value is ... else value for name, value in to.items()})
        assert now == before
        return now

    before = dict(state)
    tab.click("#play-new-a")
    a = compare(tab, generator, directions)[0]["a"]
    assert a != 1 and tab.run("document.querySelector('#play-seed-a').value") == str(a)
    before["a"] = a
    change(lambda: tab.click("#play-new-b"), b=...)

    def type_seed():
        tab.run("document.querySelector('#play-seed-a').select()")
        for digit in "12":
            tab.press(digit)
        tab.press("Enter")

    change(type_seed, a=12)

    def keys(selector, *pressed):
        tab.run(f"document.querySelector('{selector}').focus()")
        for key in pressed:
            tab.press(key)

    change(lambda: keys("#play-psi", "Home", "ArrowRight"), psi=0.05)
    change(lambda: keys("#play-psi", "End"), psi=1)
    for level in range(3):
        change(lambda level=level: keys(f"#play-level-{level}", " "), levels=[*before["levels"], level])
    change(lambda: tab.click("#play-level-1"), levels=[0, 2])
    change(lambda: keys("#play-walk-0", "End"), steps=[4, 0])
    change(lambda: keys("#play-walk-1", "ArrowLeft", "ArrowLeft"), steps=[4, -0.5])
    redrawn = change(lambda: tab.click("#play-noise"), noise=...)
    assert redrawn["noise"] is not None and str(redrawn["noise"]) in tab.run("document.body.innerText")
    change(lambda: tab.click("#play-noise-stored"), noise=None)
    tab.click(".play-controls > button")
    assert compare(tab, generator, directions)[0] == state
    assert tab.complaints == []
    assert {name.split(":")[0] for name in tab.requests} <= {"file", "blob", "data"}


@pytest.mark.slow
@in_a_browser
def test_a_phone_over_http_asks_no_other_server(page, generator, directions, tab, one_thread):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(page.parents[1])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.closing(server.socket):
        tab.send("Emulation.setTouchEmulationEnabled", enabled=True)
        here = f"http://127.0.0.1:{server.server_port}/"
        begin(tab, f"{here}book/play.html", width=390, mobile=True)
        tab.tap("#play-level-0")
        state, _ = compare(tab, generator, directions)
        assert state["levels"] == [0]
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert tab.run("[...document.querySelectorAll('.play-slice canvas')].every((c) => c.clientWidth % 64 === 0)")
        assert tab.run("[...document.querySelectorAll('.play button')].every((b) => b.clientHeight >= 38)")
        assert {name for name in tab.requests if not name.startswith((here, f"blob:{here}", "data:"))} == set()
        server.shutdown()
    assert tab.complaints == []


@pytest.mark.slow
@in_a_browser
@pytest.mark.parametrize(
    "chapter, control, key, to, shown",
    [
        ("02_how_style_works", "#play-psi", "Home", {"psi": 0}, {"result"}),
        ("05_mixing_styles", "#play-level-1", " ", {"levels": [1]}, {"result", "a", "b"}),
        ("06_the_tumor_direction", "#play-walk-0", "End", {"steps": [4, 0]}, {"result", "a"}),
    ],
)
def test_figure_in_a_chapter(chapter, control, key, to, shown, page, generator, directions, tab, one_thread):
    figure = page.with_name(f"{chapter}.html")
    figure.write_text(raw_page(f"{chapter}.ipynb"))
    begin(tab, figure.as_uri(), width=390, mobile=True)
    before, _ = compare(tab, generator, directions)
    assert set(tab.run("Object.keys(stylemedPlay.player.last)")) == shown
    ranges = tab.run("[...document.querySelectorAll('.play input:not([type=number])')].map((input) => input.id)")
    assert control in {f"#{name}" for name in ranges} and len({name.split("-")[1] for name in ranges}) == 1
    tab.run(f"document.querySelector('{control}').focus()")
    tab.press(key)
    assert compare(tab, generator, directions)[0] == before | to
    tab.click("#play-new-a")
    state, _ = compare(tab, generator, directions)
    assert state == before | to | {"a": state["a"]} and state["a"] != 1
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    assert tab.complaints == []
    assert {name.split(":")[0] for name in tab.requests} <= {"file", "blob", "data"}


@pytest.mark.slow
@in_a_browser
def test_reader_test_counts_right(page, tab):
    tab.open(page.as_uri())
    for k, n in [(0, 20), (7, 20), (10, 20), (13, 20), (20, 20), (3, 11)]:
        exact = binomtest(k, n)
        interval = exact.proportion_ci(method="wilson")
        assert tab.run(f"stylemedPlay.wilson({k}, {n})") == pytest.approx([interval.low, interval.high], abs=1e-9)
        assert tab.run(f"stylemedPlay.byChance({k}, {n})") == pytest.approx(exact.pvalue, abs=1e-9)
    tab.click("#play-reader button")
    tab.until("!!stylemedPlay.test")
    shown = tab.run("stylemedPlay.test.shown")
    assert len({one["row"] for one in shown}) == 20
    assert all((one["row"] < 24) == one["real"] for one in shown)  # the first 24 are of the store
    for at, one in enumerate(shown):
        ramp = tab.run("Array.from(stylemedPlay.test.slice.canvas.getContext('2d').getImageData(0, 9, 64, 1).data)")[
            ::4
        ]
        assert (ramp == sorted(ramp) and ramp[0] == 0 and ramp[-1] == 255) == one["real"]
        if at % 2:
            tab.press("r" if one["real"] else "g")
        else:
            tab.click("#play-real" if one["real"] else "#play-generated")
    assert tab.run("stylemedPlay.test.score.right") == 20
    assert "20 of 20 right (100 %, 95 % interval 84 to 100 %)" in tab.run(
        "document.querySelector('#play-score').innerText"
    )
    tab.press("Enter")  # "Once more" has the focus
    assert "Slice 1 of 20" in tab.run("document.querySelector('#play-reader').innerText")
    assert tab.complaints == []


@pytest.mark.slow
@in_a_browser
def test_page_without_a_generator_says_so(tmp_path, tab):
    tab.open(play_page(tmp_path / "site").as_uri())
    said = tab.run("document.body.innerText")
    assert all(
        part in said for part in ("no generator was there", "no slices and no generator", "There is no encoder here")
    )
    assert tab.run("document.querySelectorAll('button').length") == 0 and tab.complaints == []


@pytest.mark.slow
@in_a_browser
def test_walk_without_a_direction_says_so(tmp_path, tab):
    figure = play_page(tmp_path / "site").with_name("walk.html")
    figure.write_text(raw_page("06_the_tumor_direction.ipynb"))
    about = {"about": {"bytes": {"runtime": 1, "model": 1}, "directions": []}}
    (figure.parents[1] / "_static" / "play" / "about.js").write_text(f"self.stylemedParts = {json.dumps(about)};")
    tab.open(figure.as_uri())
    assert "no direction was there" in tab.run("document.body.innerText") and tab.complaints == []
