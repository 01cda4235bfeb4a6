"""A generator as two ONNX graphs, for programs without PyTorch: mapping z -> w, and synthesis w+, noise -> image.

Truncation, mixing and walks lie between the two and are a few sums of styles. Weights are stored as integers.
"""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from stylemed.errors import BadInput
from stylemed.networks.generator import Generator

OPSET = 20  # known to onnxruntime from 1.17 on
LEAST_STORED = 1024  # numbers in a tensor from which integers are worth more nodes


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
        "mapping": _graph(generator.mapping_network, (z,), ["z"], "w"),
        "synthesis": _graph(_Synthesis(generator), (styles, *noise), names, "image"),
    }


def _graph(network: nn.Module, inputs: tuple[Tensor, ...], names: list[str], output: str) -> bytes:
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
    _store_as_integers(model.graph)
    return model.SerializeToString()


def _store_as_integers(graph) -> None:
    """Replace each large weight by int16 with a scale per first axis, and int8 for what these leave over, likewise.

    The nodes that undo it are folded when a session starts.
    """
    from onnx import TensorProto, helper, numpy_helper

    undo = []
    for weight in list(graph.initializer):
        if weight.data_type != TensorProto.FLOAT or np.prod(weight.dims) < LEAST_STORED:
            continue
        left, terms = numpy_helper.to_array(weight).astype(np.float64), []
        for kind in (np.int16, np.int8):
            name = f"{weight.name}.{kind.__name__}"
            largest = np.abs(left).max(axis=tuple(range(1, left.ndim)), keepdims=True)
            scale = (largest.clip(1e-30) / np.iinfo(kind).max).astype(np.float32)
            whole = np.round(left / scale).astype(kind)
            left -= whole * scale.astype(np.float64)
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
