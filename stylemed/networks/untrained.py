"""A generator that has learned nothing, for demonstrations: what a chapter shows of it is in the way it is built."""

import torch

from stylemed.networks.generator import Generator


def random_generator(seed: int = 0, resolution: int = 64, latent_size: int = 256) -> Generator:
    """A small untrained generator for demonstrations: random weights and constant, noise switched on.

    Training starts from a constant of ones and from noise of strength 0, with which there is little to see.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(resolution, latent_size=latent_size, fmap_base=1024, fmap_max=64).eval()
        with torch.no_grad():
            generator.blocks[0].const.normal_()
            for block in generator.blocks:
                for styled in block.styled:
                    styled.noise_strength.fill_(0.1)
            z = torch.randn(4096, latent_size)
            generator.w_avg.copy_(generator.mapping(z).mean(dim=0))
    return generator.requires_grad_(False)
