"""What a training costs before it begins: numbers to learn, and memory. Counted with shapes only; nothing is allocated."""

import torch

from stylemed.networks import Discriminator, Encoder, Generator
from stylemed.training.gan import discriminator_loss, generator_loss, gradient_penalty


def network_sizes(config) -> dict[str, int]:
    """Trainable numbers of generator, discriminator and encoder of a GanConfig; nothing is allocated."""
    generator, discriminator = _on_paper(config)
    with torch.device("meta"):
        encoder = Encoder(config.resolution, config.channels, config.latent_size, generator.num_layers)
    networks = {"generator": generator, "discriminator": discriminator, "encoder": encoder}
    return {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}


def training_memory(config, batch: int) -> dict[str, float]:
    """Estimate in GiB of what one GAN step holds at full resolution in float32; a lower bound, nothing is allocated.

    "weights": both networks with gradients, two Adam moments each, and the averaged generator. "D step", "G step": what
    the backward pass has to remember, counted with shapes only; the D step with R1. Work space is not included.
    """
    generator, discriminator = _on_paper(config)
    numbers = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
    shape = (batch, config.channels, config.resolution, config.resolution)
    reals = torch.empty(shape, device="meta", requires_grad=True)
    fakes = torch.empty(shape, device="meta")
    z = torch.empty(batch, config.latent_size, device="meta")

    def d_step():
        scores = discriminator(reals)
        return discriminator_loss(scores, discriminator(fakes)) + gradient_penalty(scores, reals)

    def g_step():
        return generator_loss(discriminator(generator(z)))

    return {
        "weights": (4 * sum(numbers) + numbers[0]) * 4 / 2**30,
        "D step": _remembered(d_step) / 2**30,
        "G step": _remembered(g_step) / 2**30,
    }


def _on_paper(config):
    """Generator and discriminator of a GanConfig with shapes but without memory."""
    shared = {k: getattr(config, k) for k in ("resolution", "channels", "fmap_base", "fmap_max")}
    with torch.device("meta"):
        generator = Generator(**shared, latent_size=config.latent_size, mapping_layers=config.mapping_layers)
        return generator, Discriminator(**shared, stddev_group=config.stddev_group)


def _remembered(compute) -> int:
    """Bytes that autograd keeps for the backward pass of what `compute` does, each storage once."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), storage)  # held, so that no address comes twice
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute()
    return sum(size for size, _ in kept.values())
