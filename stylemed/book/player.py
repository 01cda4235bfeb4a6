"""What the page `Play` reads: generator and encoder of a profile as ONNX, and slices for its reader test, each as one script.

A page opened from a file may load scripts and nothing else, so bytes travel as base64 in them, over http too.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from stylemed.chapters import networks
from stylemed.errors import BadInput
from stylemed.files import write_atomic
from stylemed.latent.direction import Direction
from stylemed.latent.generation import random_styles
from stylemed.latent.mixing import LEVELS, describe_level, layers_of, synthesize
from stylemed.networks.generator import TRUNCATED_LAYERS
from stylemed.networks.graphs import encoder_graph, generator_graphs
from stylemed.provenance import Provenance, belong_together

PILE = 24  # slices of each kind the reader test draws its 20 from


def write_player(artifacts: Path, runtime: Path, out: Path) -> bool:
    """Write what `Play` reads into the folder `out`: of the networks that chapters read, and of what they left in `artifacts`.

    runtime: the script of onnxruntime, whose size the page names. False, and nothing written, where there is no generator.
    BadInput for a direction of another generator, and for a store whose test patients the generator may have seen.
    """
    from stylemed.data.store import SliceStore
    from stylemed.training.run import load_encoder, load_generator

    folder, encoder_folder = networks(artifacts)
    if not (folder / "generator.safetensors").is_file():
        return False
    generator, _ = load_generator(folder)
    directions = [Direction.load(file) for file in sorted(artifacts.glob("direction*.safetensors"))]
    store = SliceStore.open(artifacts / "store") if (artifacts / "store" / "store.json").is_file() else None
    has_encoder = (encoder_folder / "encoder.safetensors").is_file()
    encoder = load_encoder(encoder_folder)[0] if has_encoder else None
    write_parts(out, runtime, generator, directions, store, encoder)
    return True


def write_parts(out: Path, runtime: Path, generator, directions=(), store=None, encoder=None) -> None:
    """The script `model.js`, `slices.js` and `encoder.js` where there are such; and `about.js`, which names their bytes."""
    sizes = {
        "runtime": runtime.stat().st_size,
        "model": write_part(out / "model.js", model_part(generator, directions)),
    }
    if store is not None:
        sizes["slices"] = write_part(out / "slices.js", slices_part(generator, store))
    if encoder is not None:
        sizes["encoder"] = write_part(out / "encoder.js", encoder_part(generator, encoder))
    about = {"bytes": sizes, "directions": [direction.label for direction in directions]}
    write_atomic(out / "about.js", f"self.stylemedParts = {json.dumps({'about': about})};\n".encode())


def write_part(file: Path, part: dict[str, Any]) -> int:
    """A script that leaves `part`, plain values, under the file's name; how many bytes it has."""
    script = f"self.stylemedParts.{file.stem} = {json.dumps(part)};\n".encode()
    write_atomic(file, script)
    return len(script)


def model_part(generator, directions=()) -> dict[str, Any]:
    """Graphs, mean style, stored noise, levels and directions of a Generator, as plain values.

    BadInput for a direction that was found with other weights, or where onnx is not installed.
    """
    for direction in directions:
        belong_together(
            getattr(generator, "provenance", Provenance()),
            direction.provenance,
            names=("the generator", f"the direction {direction.label}"),
            same_store=False,
            cure="find the direction on codes of this generator",
        )
    layers = generator.num_layers
    return {
        "resolution": generator.resolution,
        "layers": layers,
        "latent": generator.latent_size,
        "truncated": TRUNCATED_LAYERS,
        "levels": [{"label": describe_level(name, layers), "layers": layers_of(name, layers)} for name in LEVELS],
        "directions": [
            {
                "label": direction.label,
                "step": direction.step,
                "layers": layers_of(direction.layers, layers),
                "vector": _floats([direction.vector]),
            }
            for direction in directions
        ],
        "w_avg": _floats([generator.w_avg]),
        "noise": _floats(generator.noise_maps()),
        **{name: base64.b64encode(graph).decode() for name, graph in generator_graphs(generator).items()},
    }


def encoder_part(generator, encoder) -> dict[str, Any]:
    """Graph of an Encoder, and the frame and windows {modality: [lo, hi]} of the slices it knows, as plain values.

    BadInput for the encoder of another generator.
    """
    made = getattr(encoder, "provenance", Provenance())
    belong_together(
        getattr(generator, "provenance", Provenance()),
        made,
        names=("the generator", "the encoder"),
        cure="train the encoder on this generator",
    )
    return {
        "resolution": encoder.resolution,
        "frame": made.frame,
        "windows": made.windows,
        "graph": packed(encoder_graph(encoder)),
    }


def slices_part(generator, store, count: int = PILE, seed: int = 0) -> dict[str, Any]:
    """`count` slices of a store (of its `test` patients where there are any) and as many generated ones, in 8 bits.

    Both are drawn by chance alone; the generated ones are not truncated. Where the store has fewer, it gives what it has.
    BadInput where store and generator do not belong together, and where it may have learned from one of the test patients.
    """
    made, cure = getattr(generator, "provenance", Provenance()), "name the store the generator was trained on"
    rows, names = store.select("test"), ("the generator", f"the store {store.path}")
    belong_together(made, store.provenance, names=names, same_store=not len(rows), cure=cure)
    if known := made.shared_patients(store.learned_from(rows), by_name_alone=True):
        raise BadInput(f"The generator may have learned from {known[0]}, a test patient of {store.path}; {cure}.")
    rows = rows if len(rows) else store.select()
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    made = synthesize(generator, random_styles(generator, count, psi=1.0, seed=seed)).numpy()
    images = np.concatenate([store.images(rows), made])[:, 0]
    pixels = np.round((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return {
        "size": generator.resolution,
        "real": list(range(len(rows))),
        "generated": list(range(len(rows), len(pixels))),
        "pixels": packed(pixels.tobytes()),
    }


def packed(content: bytes) -> str:
    """gzip in base64."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _floats(arrays) -> str:
    """Little-endian float32 numbers of all arrays in a row, in base64."""
    return base64.b64encode(np.concatenate([np.asarray(array, "<f4").ravel() for array in arrays]).tobytes()).decode()
