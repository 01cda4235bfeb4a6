"""A slice of one's own on the page Play: files as the package reads them, the encoder's answer as PyTorch gives it."""

import base64
import json
import re
import struct

import nibabel as nib
import numpy as np
import pytest
import torch
from browser import ROOT, find, play_page, ramps
from PIL import Image

from stylemed import pretrained
from stylemed.book.player import write_parts
from stylemed.data.body import body_square
from stylemed.data.layouts import Case
from stylemed.data.resample import Resampler
from stylemed.data.store import Window
from stylemed.data.volumes import read_case
from stylemed.latent.direction import walk
from stylemed.latent.mixing import layers_of, mix

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find() is None, reason="no Chromium")]
RUNTIME = ROOT / "book" / "_static" / "vendor" / "onnxruntime" / "runtime.js"
CT, MR = Window(-100, 250), Window(0, 1000)  # of the released model
READ = """(async (text, name) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  try {
    const volume = await stylemedPlay.readNifti(bytes, name), {width, height, count, spacing} = volume;
    const slices = Array.from({length: count}, (_, z) => Array.from(volume.slice(z)));
    return {width, height, count, spacing, slices};
  } catch (error) { return error.message; }
})"""


@pytest.fixture
def bare(tmp_path, tab):
    """The page without anything to play with: its readers work all the same."""
    tab.open(play_page(tmp_path / "site").as_uri())
    return tab


def in_page(tab, content: bytes, name="brain.nii"):
    return tab.run(f"{READ}({json.dumps(base64.b64encode(content).decode())}, {json.dumps(name)})")


def scan(codes: str, kind, scale=(None, None), oblique=0.0, by="sform"):
    """A NIfTI image of random numbers with axes of different lengths that lie as `codes` say."""
    data = np.random.default_rng(0).integers(0, 255, (5, 4, 3)).astype(kind)
    axes = nib.orientations.axcodes2ornt(tuple(codes))
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(axes):
        affine[int(along), axis] = sign * (0.7, 0.8, 2.5)[axis]
    turned = np.array([[np.cos(oblique), -np.sin(oblique), 0], [np.sin(oblique), np.cos(oblique), 0], [0, 0, 1]])
    affine[:3, :3] = turned @ affine[:3, :3]
    affine[3, 3] = 1
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, 1 if by == "sform" else 0)
    image.set_qform(affine, 1 if by == "qform" else 0)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(*scale)
    return image


@pytest.mark.parametrize(
    "image, zipped",
    [
        (scan("LPS", np.int16), True),
        (scan("RAS", np.uint8, (2.0, -1000.0)), True),
        (scan("SAL", np.float32, oblique=0.3), False),
        (scan("PIR", np.int16, (0.5, -100.0), oblique=-0.2, by="qform"), False),
        (scan("ILA", np.uint8, by="qform"), True),
    ],
)
def test_nifti_is_read_as_the_package_reads_it(bare, tmp_path, image, zipped):
    files = [tmp_path / f"{kind}-1.nii{'.gz' if zipped else ''}" for kind in ("volume", "segmentation")]
    for file, one in zip(files, (image, nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine)), strict=True):
        nib.save(one, file)
    volume = read_case(Case("1", *files, patient="1"))
    found = in_page(bare, files[0].read_bytes())
    np.testing.assert_array_equal(np.array(found["slices"]).reshape(volume.hu.shape), volume.hu)
    assert len(np.unique(volume.hu)) > 30
    assert found["spacing"] == pytest.approx(volume.spacing_mm[1:], rel=1e-4)


def test_files_it_cannot_read_are_refused_in_one_sentence(bare):
    good = scan("LPS", np.int16).to_bytes()

    def changed(at, kind, *values):
        return good[:at] + struct.pack(kind, *values) + good[at + struct.calcsize(kind) :]

    swapped = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4), nib.Nifti1Header(endianness=">")).to_bytes()
    refused = {
        "neither a PNG nor a NIfTI": [b"", b"DICM" * 500],
        "cut short": [good[:-2], b"\x1f\x8b" + good],
        "header without its voxels": [changed(344, "4s", b"ni1\0")],
        "NIfTI-2": [nib.Nifti2Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes()],
        "big-endian": [swapped],
        "type 64": [scan("LPS", np.float64).to_bytes()],
        "one three-dimensional volume": [changed(40, "<5h", 4, 5, 4, 3, 2), changed(40, "<3h", 2, 5, 4)],
        "how the patient lies": [changed(252, "<2h", 0, 0), changed(280, "<12f", *[0.0] * 12)],
        "no numbers": [scan("LPS", np.float32).to_bytes()[:-4] + struct.pack("<f", np.nan)],
    }
    for reason, contents in refused.items():
        for content in contents:
            said = in_page(bare, content)
            assert isinstance(said, str) and reason in said and said.startswith("brain.nii "), (reason, said)
            assert ". " not in said and "\n" not in said


def listed(array) -> str:
    return f"Float32Array.from({json.dumps(np.asarray(array, float).ravel().tolist())})"


def test_squares_become_pixels_as_in_a_store(bare):
    values = np.random.default_rng(0).integers(-900, 900, (23, 31)).astype(np.int16)
    for square in [(0, 0, 23.0), (-4.2, 3.3, 31.7), (5.0, 6.0, 7.1), (2.0, -9.0, 60.0)]:
        wanted = Resampler(values.shape, (0.9, 1.1), 16, square=square).hu(values, -1024)
        top, left, side = square
        picture = f"{{values: {listed(values)}, width: 31, height: 23, spacing: [0.9, 1.1], fill: -1024}}"
        found = bare.run(
            f"Array.from(stylemedPlay.resample({picture}, {{top: {top}, left: {left}, side: {side}}}, 16))"
        )
        np.testing.assert_allclose(np.array(found).reshape(16, 16), wanted, atol=0.6)  # the store rounds


@pytest.mark.parametrize("lowest", [-1024, 0])
def test_the_square_around_the_body_is_nearly_that_of_a_store(bare, phantom, lowest):
    """lowest: where intensities were cut off, so that fat looks like air."""
    volume = read_case(Case("1", phantom / "volume-1.nii.gz", phantom / "segmentation-1.nii.gz", patient="1"))
    around = ((0, 0), (10, 30), (25, 15))
    volume.hu, volume.labels = (
        np.pad(volume.hu, around, constant_values=-1000).clip(lowest),
        np.pad(volume.labels, around),
    )
    wanted = np.array(body_square(volume))
    slices = ", ".join(map(listed, volume.hu))
    height, width = volume.hu.shape[1:]
    spacing = list(volume.spacing_mm[1:])
    found = bare.run(f"stylemedPlay.bodySquare([{slices}], {width}, {height}, {spacing}, 1)")
    assert np.array([found[name] for name in ("top", "left", "side")]) == pytest.approx(wanted, abs=0.05 * wanted[2])
    assert wanted[2] < 0.7 * width * spacing[1]  # the whole image would not do
    assert bare.run("stylemedPlay.bodySquare([new Float32Array(4096)], 64, 64, [1, 1], 1)") is None


# ---- with the released model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle():
    return pretrained.load("phantom-64")


@pytest.fixture(scope="module")
def page(bundle, tmp_path_factory):
    pytest.importorskip("onnxscript")
    site = tmp_path_factory.mktemp("site")
    page = play_page(site)
    direction = bundle.directions["tumor"]
    write_parts(site / "_static" / "play", RUNTIME, bundle.generator, [direction], ramps(), bundle.encoder)
    return page


def numbers(tab, what, shape=(64, 64)):
    return np.array(tab.run(f"Array.from(stylemedPlay.{what})"), np.float32).reshape(shape)


def settled(tab):
    tab.run("stylemedPlay.own.settled")
    tab.run("stylemedPlay.player.settled")


def agree(tab, bundle, seen, step=1 / CT.per_unit):
    """The page's own answer against PyTorch's for the image that it should see, [64, 64] in [-1, 1]."""
    settled(tab)
    found, seen = numbers(tab, "own.last.seen"), np.asarray(seen, np.float32)
    apart = np.abs(found - seen)
    assert apart.max() < 1.01 * step and (apart > 1e-5).mean() < 0.01  # of two whole HU either may be the nearest
    w_plus = bundle.encoder(torch.tensor(found)[None, None])
    apart = (numbers(tab, "own.last.styles", (1, 10, 256)) - w_plus.numpy()) / bundle.encoder.w_std.numpy()
    assert np.abs(apart).max() < 1e-3
    rebuilt = bundle.generator.synthesis(w_plus)[0, 0].numpy()
    np.testing.assert_allclose(numbers(tab, "own.last.rebuilt"), rebuilt, atol=2e-3)
    assert tab.run("stylemedPlay.own.mean") == pytest.approx(np.abs(rebuilt.clip(-1, 1) - found).mean(), abs=1e-4)
    return w_plus


def test_a_slice_is_encoded_edited_and_saved(page, bundle, phantom, tab, tmp_path, one_thread):
    tab.open(page.as_uri())
    assert [name for name in tab.requests if re.search(r"encoder\.js|model|runtime", name)] == []
    size = re.search(
        r"generator and encoder \((\d+\.\d) MB\)", tab.run("document.querySelector('#play-own').innerText")
    )
    left = sum(
        (page.parents[1] / "_static" / "play" / f"{name}.js").stat().st_size for name in ("model", "encoder", "slices")
    )
    assert float(size[1]) == pytest.approx((left + RUNTIME.stat().st_size) / 1e6, abs=0.06)
    tab.click("#play-own button")
    tab.until("!!stylemedPlay.own")

    file = phantom / "volume-2.nii.gz"
    volume = read_case(Case("2", file, phantom / "segmentation-2.nii.gz", patient="2"))
    tab.give("#play-file", file)
    tab.until("!!stylemedPlay.own.last.styles")

    def expected(z, window=CT):
        square = tab.run("stylemedPlay.own.square")
        square = square["top"], square["left"], square["side"]
        return window.to_unit(
            Resampler(volume.hu.shape[1:], volume.spacing_mm[1:], 64, square=square).hu(volume.hu[z], -1024)
        )

    z = len(volume.hu) // 2
    w_plus = agree(tab, bundle, expected(z))
    state = tab.run("stylemedPlay.player.state")
    assert state == {"a": None, "b": 2, "psi": 1, "levels": [], "steps": [0], "noise": None}
    np.testing.assert_array_equal(numbers(tab, "player.last.result"), numbers(tab, "own.last.rebuilt"))

    def keys(selector, *pressed):
        tab.run(f"document.querySelector('{selector}').focus()")
        for key in pressed:
            tab.press(key)

    keys("#play-z", "ArrowRight")
    keys("#play-side", "ArrowLeft", "ArrowLeft")
    before = tab.run("stylemedPlay.own.square")
    agree(tab, bundle, expected(z + 1))
    keys("#play-x", "ArrowRight")
    keys("#play-y", "ArrowRight")
    moved = tab.run("stylemedPlay.own.square")
    assert moved["left"] > before["left"] and moved["top"] > before["top"] and moved["side"] == before["side"]
    tab.click(".play-picture")  # its middle
    middle = tab.run("stylemedPlay.own.square")
    assert middle["left"] + middle["side"] / 2 == pytest.approx(volume.hu.shape[2] * volume.spacing_mm[2] / 2, abs=1)
    agree(tab, bundle, expected(z + 1))
    tab.run("(document.querySelector('#play-window').value = 'MR', document.querySelector('#play-window').onchange())")
    agree(tab, bundle, expected(z + 1, MR))
    tab.run("(document.querySelector('#play-window').value = 'CT', document.querySelector('#play-window').onchange())")
    tab.click("#play-find")
    w_plus = agree(tab, bundle, expected(z + 1))

    # The same controls as for a generated A.
    keys("#play-walk-0", "End")
    tab.click("#play-level-0")
    settled(tab)
    b = bundle.generator.broadcast(bundle.generator.mapping(torch.tensor(numbers(tab, "normals(2, 256)", (1, 256)))))
    mixed = mix(w_plus[0], b[0], layers_of("coarse", 10))[None]
    edited = bundle.generator.synthesis(walk(mixed, bundle.directions["tumor"], [4])[:, 0])[0, 0].numpy()
    np.testing.assert_allclose(numbers(tab, "player.last.result"), edited, atol=2e-3)

    # Saved, and given again: a PNG of the model's size is taken whole.
    tab.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    tab.click("#play-save")
    saved = tmp_path / "slice.png"
    for _ in range(100):
        if saved.is_file() and saved.stat().st_size:
            break
        tab.run("new Promise((done) => setTimeout(done, 50))")
    pixels = np.asarray(Image.open(saved).convert("RGB"))
    found = numbers(tab, "player.last.result")
    assert (pixels == np.floor((found.clip(-1, 1) + 1) * 127.5 + 0.5)[..., None]).all()
    tab.give("#play-file", saved)
    tab.until("stylemedPlay.own.said.textContent.startsWith('slice.png')")
    agree(tab, bundle, pixels[..., 0].astype(np.float32) / 127.5 - 1)

    tab.click("#play-sample")
    tab.until("stylemedPlay.own.said.textContent.startsWith('A slice of this book')")
    settled(tab)
    assert np.abs(numbers(tab, "own.last.seen") - np.linspace(-1, 1, 64)).max() < 0.01

    tab.click("#play-new-a")
    tab.click("#play-own-b")
    settled(tab)
    assert tab.run("stylemedPlay.player.state.b") is None and tab.run("stylemedPlay.player.state.a") is not None
    np.testing.assert_allclose(numbers(tab, "player.last.b"), numbers(tab, "own.last.rebuilt"), atol=1e-6)

    tab.send("Emulation.setDeviceMetricsOverride", width=390, height=900, deviceScaleFactor=1, mobile=True)
    tab.until("innerWidth === 390 && document.documentElement.scrollWidth <= innerWidth", 10)

    # What is no slice is refused in one sentence, and what was there stays.
    colour, deep, broken = (tmp_path / f"{name}.png" for name in ("colour", "deep", "broken"))
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(colour)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(deep)
    broken.write_bytes(saved.read_bytes()[:200])
    for name, reason in [
        (colour, "in colour"),
        (deep, "16 bits a pixel"),
        (broken, "cut short"),
        (ROOT / "LICENSE", "neither"),
    ]:
        tab.give("#play-file", name)
        tab.until(f"stylemedPlay.own.said.textContent.startsWith('{name.name} ')")
        said = tab.run("stylemedPlay.own.said.textContent")
        assert reason in said and said.endswith(".") and said.count(". ") == 0
    settled(tab)
    assert tab.complaints == []
    assert {name.split(":")[0] for name in tab.requests} <= {"file", "blob", "data"}
