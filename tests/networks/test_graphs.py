"""Networks as ONNX graphs: onnxruntime gives PyTorch's numbers."""

import importlib.util

import numpy as np
import pytest
import torch

from stylemed.networks import Encoder, Generator
from stylemed.networks.graphs import encoder_graph, generator_graphs
from stylemed.networks.packing import pack, unpack

onnxruntime = pytest.importorskip("onnxruntime")
if importlib.util.find_spec("onnxscript") is None:  # not imported here: that takes seconds
    pytest.skip("needs onnxscript", allow_module_level=True)


@pytest.mark.slow
@pytest.mark.parametrize("lod", [0.0, 0.5])
def test_graphs_give_the_images_of_pytorch(lod, one_thread):
    torch.manual_seed(0)
    generator = Generator(32, 1, latent_size=64, mapping_layers=8, fmap_base=512, fmap_max=32, mapping_normalized=True)
    generator.lod = lod
    for name, strength in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.normal_(strength, std=0.3)  # zero when untrained: the noise would not matter
    graphs = generator_graphs(generator.eval().requires_grad_(False))
    mapping, synthesis = (onnxruntime.InferenceSession(graphs[name]) for name in ("mapping", "synthesis"))
    weights = sum(p.numel() for p in generator.parameters())
    assert sum(map(len, graphs.values())) < 3.2 * weights + 150_000  # 24 bits a weight, and the graphs themselves
    assert not [word for word in (b"/stylemed/", b".py") if any(word in graph for graph in graphs.values())]
    for seed in range(4):
        z = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
        noise = generator.noise_maps("random", generator=torch.Generator().manual_seed(seed))
        w = generator.mapping(z)
        styles = generator.broadcast(w).contiguous()
        (found,) = mapping.run(None, {"z": z.numpy()})
        np.testing.assert_allclose(found, w.numpy(), atol=1e-4)
        used = {each.name for each in synthesis.get_inputs()}
        fed = {"w_plus": styles.numpy(), **{f"noise{i}": n.numpy() for i, n in enumerate(noise)}}
        assert used <= fed.keys()
        (image,) = synthesis.run(None, {name: fed[name] for name in used})
        expected = generator.synthesis(styles, noise).numpy()
        np.testing.assert_allclose(image, expected, atol=2e-4)
        assert expected.std() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("storage, size, apart", [("int8", 1, 1e-4), ("float32", 2, 1e-3)])
def test_graph_of_an_encoder_gives_its_styles(storage, size, apart, one_thread):
    """size: bytes a weight; what was released in eight bits loses nothing."""
    torch.manual_seed(0)
    encoder = Encoder(32, 1, latent_size=32, num_layers=8, trunk="resnet18", shortcut=8, radius=0.5).eval()
    for name, values in encoder.named_parameters():
        if name.startswith(("head", "offsets", "linear")):
            torch.nn.init.normal_(values)  # zero when untrained
    encoder.load_state_dict(unpack(pack(encoder.state_dict(), storage)))
    graph = encoder_graph(encoder)
    weights = sum(p.numel() for p in encoder.parameters())
    assert len(graph) < size * weights + 150_000
    session = onnxruntime.InferenceSession(graph)
    for image in torch.rand(3, 1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1:
        (found,) = session.run(None, {"image": image.numpy()})
        expected = encoder(image).detach().numpy()
        assert found.shape == expected.shape == (1, 8, 32)
        np.testing.assert_allclose(found, expected, atol=apart * expected.std())
        assert expected.std() > 0.1
