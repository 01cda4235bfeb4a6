"""Networks as ONNX graphs, for programs without PyTorch: a generator's mapping z -> w and synthesis w+, noise -> image, and an
encoder image -> w+.

Truncation, mixing and walks lie between mapping and synthesis and are a few sums of styles. Weights are stored as integers.
"""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from stylemed.errors import BadInput
from stylemed.networks.encoder import Encoder
from stylemed.networks.generator import Generator

OPSET = 20  # known to onnxruntime from 1.17 on
LEAST_STORED = 1024  # numbers in a tensor from which integers are worth more nodes
# Integers whose sum, each with a scale for every row, stands for a weight.
BITS_8, BITS_16, BITS_24 = (np.int8,), (np.int16,), (np.int16, np.int8)
EXACT = 1e-6  # of a row's largest weight: no more is lost by float32 itself


class _Synthesis(nn.Module):
    """`Generator.synthesis` with each noise map an input of its own."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, w_plus: Tensor, *noise: Tensor) -> Tensor:
        return self.generator.synthesis(w_plus, list(noise))


def generator_graphs(generator: Generator) -> dict[str, bytes]:
    """The two graphs as ONNX files, for one image at a time, at the level of detail the generator has.

    mapping: `z` [1, latent] -> `w` [1, latent], untruncated.
    synthesis: `w_plus` [1, L, latent], `noise0` … [1, 1, H, W] -> `image` [1, C, R, R], about [-1, 1].

    Images differ from PyTorch's by less than 1e-3 (a grey level of 8 bits is 8e-3). Weights are stored in 24 bits: half precision
    is off by 1e-2 in an image, and 16 bits with a scale per channel by 1e-3, because eight layers of mapping and a w that is scaled
    to unit width magnify what is lost.
    BadInput where onnx and onnxscript, which torch exports with, are not installed.
    """
    z = torch.zeros(1, generator.latent_size, device=generator.w_avg.device)
    noise = generator.noise_maps()
    names = ["w_plus", *(f"noise{layer}" for layer in range(len(noise)))]
    styles = generator.broadcast(generator.w_avg[None]).contiguous()
    return {
        "mapping": _graph(generator.mapping_network, (z,), ["z"], "w", BITS_24),
        "synthesis": _graph(_Synthesis(generator), (styles, *noise), names, "image", BITS_24),
    }


def encoder_graph(encoder: Encoder) -> bytes:
    """An encoder as an ONNX file: `image` [1, C, R, R] in [-1, 1] -> `w_plus` [1, L, latent].

    Weights that were released in eight bits (`networks.packing`) are stored in eight, and nothing is lost; others in 16, with a
    scale per output channel. Styles differ from PyTorch's by less than 1e-3 of the spread of w.
    BadInput where onnx and onnxscript, which torch exports with, are not installed.
    """
    image = torch.zeros(1, encoder.channels, encoder.resolution, encoder.resolution, device=encoder.w_avg.device)
    return _graph(encoder, (image,), ["image"], "w_plus", BITS_8, BITS_16)


def _graph(network: nn.Module, inputs: tuple[Tensor, ...], names: list[str], output: str, *storages) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise BadInput("ONNX graphs need onnx and onnxscript; install them: pip install 'stylemed[book]'.") from None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            network.eval(),
            inputs,
            input_names=names,
            output_names=[output],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        part.ClearField("metadata_props")  # stack traces with the paths of this machine
        part.ClearField("doc_string")
    _store_as_integers(model.graph, storages)
    return model.SerializeToString()


def _store_as_integers(graph, storages) -> None:
    """Replace each large weight by integers with a scale per first axis: the first of `storages` that loses nothing, or the last.

    The nodes that undo it are folded when a session starts.
    """
    from onnx import TensorProto, helper, numpy_helper

    undo = []
    for weight in list(graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < LEAST_STORED:
            continue
        values, terms = numpy_helper.to_array(weight).astype(np.float64), []
        for parts in (_integers(values, kinds) for kinds in storages):
            rest = values - sum(whole * scale.astype(np.float64) for whole, scale in parts)
            if (np.abs(rest) <= EXACT * _largest(values)).all():
                break
        for whole, scale in parts:
            name = f"{weight.name}.{whole.dtype}"
            graph.initializer.append(numpy_helper.from_array(whole, name))
            graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            undo.append(helper.make_node("Cast", [name], [f"{name}.cast"], to=TensorProto.FLOAT))
            undo.append(helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [f"{name}.term"]))
            terms.append(f"{name}.term")
        graph.initializer.remove(weight)
        undo.append(helper.make_node("Sum", terms, [weight.name]))
    nodes = [*undo, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _integers(values: np.ndarray, kinds) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(integers, scale per first axis)] of each kind in turn, a later one for what is left over."""
    parts, left = [], values
    for kind in kinds:
        scale = (_largest(left).clip(1e-30) / np.iinfo(kind).max).astype(np.float32)
        whole = np.round(left / scale).astype(kind)
        left = left - whole * scale.astype(np.float64)
        parts.append((whole, scale))
    return parts


def _largest(values: np.ndarray) -> np.ndarray:
    return np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True)
