"""The page Play in a headless Chromium: megabytes, time from the click to the first image, ms an image, agreement with PyTorch;
and where a released model has an encoder, its megabytes and ms a slice.

Beside the clock stands the time of the browser's own process per image: where other work shares the cores, only that tells.

python benchmarks/player.py phantom-64 ct-128 --images 60

Each model is a run folder or .safetensors file, or the name of a preset with random weights at the resolution in its name.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]
from browser import ROOT, browser, play_page  # noqa: E402

from stylemed import pretrained  # noqa: E402
from stylemed.book.player import write_parts  # noqa: E402
from stylemed.networks import Generator  # noqa: E402
from stylemed.training.schedule import PRESETS, gan_config  # noqa: E402

RUNTIME = ROOT / "book" / "_static" / "vendor" / "onnxruntime" / "runtime.js"
HEAD = ("model", "side", "weights", "MB, runtime + model", "click to first image, s: clock / processor")
HEAD += (
    "ms an image: least / quartiles",
    "ms of the processor",
    "apart",
    "encoder, MB",
    "ms to encode: least / quartiles",
)
MEASURE = """(async (images) => {
  const {generator} = stylemedPlay.player, found = [];
  for (let seed = 0; seed < images; seed++) {
    const z = stylemedPlay.normals(seed, generator.latent), started = performance.now();
    const image = await generator.synthesize(generator.truncate(await generator.map(z), 1), generator.stored);
    found.push({z: Array.from(z), ms: performance.now() - started, image: seed < 20 ? Array.from(image) : null});
  }
  return found;
})"""

ENCODE = """(async (times) => {
  const {player} = stylemedPlay, {generator} = player, found = [];
  const encoder = await stylemedPlay.Encoder.open(generator);
  for (let i = 0; i < times; i++) {
    const started = performance.now();
    await encoder.encode(player.last.a.slice());
    found.push(performance.now() - started);
  }
  return found;
})"""


def model(name: str) -> Generator:
    if name not in PRESETS or name in pretrained.available():
        return pretrained.generator(name)[0]
    config = asdict(gan_config(name, int(name.rpartition("-")[2])))
    known = ("resolution", "channels", "latent_size", "mapping_layers", "fmap_base", "fmap_max", "mapping_normalized")
    torch.manual_seed(0)
    generator = Generator(**{key: config[key] for key in known}).eval().requires_grad_(False)
    spread = generator(torch.randn(4, generator.latent_size)).std()
    for layer in generator.to_image:  # images in about [-1, 1], as after training, so that differences can be compared
        layer.weight.data *= 0.5 / spread
    return generator


def quartiles(ms) -> str:
    return " / ".join(f"{q:.0f}" for q in np.quantile(ms, [0, 0.25, 0.5, 0.75]))


def process_time(tab) -> float:
    """Seconds of the processor that the tab's process has used."""
    tab.send("Performance.enable")
    return next(m["value"] for m in tab.send("Performance.getMetrics")["metrics"] if m["name"] == "ProcessTime")


def row(name: str, images: int) -> str:
    generator = model(name)
    encoder = pretrained.load(name).encoder if name in pretrained.available() else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = play_page(Path(folder) / "site")
        parts = page.parents[1] / "_static" / "play"
        write_parts(parts, RUNTIME, generator, encoder=encoder)
        megabytes = {file.stem: file.stat().st_size / 1e6 for file in (RUNTIME, *parts.glob("*.js"))}
        firsts, starts, spent, encoded = [], [], [], []
        for again in range(3):
            with browser(Path(folder) / f"profile-{again}") as tab:
                tab.open(page.as_uri())
                before = process_time(tab)
                tab.click("#play-generator button")
                tab.until("!!stylemedPlay.player?.first_image")
                firsts.append(tab.run("stylemedPlay.player.first_image") / 1000)
                starts.append(process_time(tab) - before)
                before = process_time(tab)
                found = tab.run(f"{MEASURE}({images})")
                spent.append(1000 * (process_time(tab) - before) / images)
                if encoder is not None:
                    encoded = tab.run(f"{ENCODE}({images})")
    ms = np.array([one["ms"] for one in found])
    apart = 0.0
    for one in found[:20]:
        image = generator(torch.tensor([one["z"]])).numpy().ravel()
        apart = max(apart, np.abs(image - np.array(one["image"])).max())
    weights = sum(p.numel() for p in generator.parameters()) / 1e6
    cells = [
        name,
        f"{generator.resolution}²",
        f"{weights:.1f} M",
        f"{megabytes['runtime']:.1f} + {megabytes['model']:.1f}",
        f"{min(firsts):.1f}–{max(firsts):.1f} / {min(starts):.1f}–{max(starts):.1f}",
        quartiles(ms),
        f"{min(spent):.0f}–{max(spent):.0f}",
        f"{apart:.0e}",
        f"{megabytes['encoder']:.1f}" if encoder is not None else "",
        quartiles(encoded) if encoder is not None else "",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=60, help="timed in each browser")
    given = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name in given.models:
        print(row(name, given.images), flush=True)
