"""Training of generator and encoder, and the folders they leave behind."""

from stylemed.training.encoder import ENCODER_PRESETS, EncoderConfig, encoder_config, train_encoder
from stylemed.training.gan import train_gan
from stylemed.training.run import Run, load_encoder, load_generator
from stylemed.training.schedule import PRESETS, GanConfig, gan_config, growth_table, stage

__all__ = [
    "ENCODER_PRESETS",
    "PRESETS",
    "EncoderConfig",
    "GanConfig",
    "Run",
    "encoder_config",
    "gan_config",
    "growth_table",
    "load_encoder",
    "load_generator",
    "stage",
    "train_encoder",
    "train_gan",
]
