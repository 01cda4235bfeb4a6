"""Generator, discriminator and encoder; they know nothing of CT, files or training."""

from stylemed.networks.discriminator import Discriminator
from stylemed.networks.encoder import Encoder
from stylemed.networks.generator import Generator
from stylemed.networks.layers import feature_maps, levels, num_layers
from stylemed.networks.port import from_original

__all__ = ["Discriminator", "Encoder", "Generator", "feature_maps", "from_original", "levels", "num_layers"]
