"""How a scanner sees a phantom's body: CT with partial volume, noise and streaks, and an MR-like modality of the same body."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from stylemed.phantom import anatomy as an
from stylemed.phantom.organs import draw

KERNELS = {"soft": (0.55, 0.33), "sharp": (0.35, 0.55)}  # point spread (sigma, mm), noise roll-off (1/mm)

# The MR-like modality. Its tissues are painted with codes in the place of HU, and the codes become signal by this curve: fat
# bright, fluid and flowing blood dark, bone and air without signal, as in T1 weighting. Where fat and water share a voxel, the
# curve passes through the dark: that is what opposed-phase images look like.
MR_CODES = dict(
    liver=112, spleen=48, cortex=92, medulla=56, aorta=0, vein=2, portal=2, bowel_wall=60, muscle=60, bone=235, pancreas=128
)  # fmt: skip
MR_CURVE = np.array(
    [
        (-1000, 0), (-500, 0), (-200, 750), (-104, 950), (-60, 850), (-15, 200), (10, 190), (30, 260), (60, 420),
        (90, 530), (112, 620), (150, 690), (200, 640), (260, 560), (400, 100), (550, 30), (3000, 20),
    ],
    np.float32,
)  # fmt: skip
MR_MAX = 1000.0
STREAK_GRID, STREAK_ANGLES = 64, 60


@dataclass
class Look:
    """What the scanner decides, independent of the anatomy."""

    phase: str = "portal"
    kernel: str = "soft"
    noise_hu: float = 18.0  # standard deviation in the middle of the body at 0.75 mm pixels
    margin_mm: float = 30.0  # air left and right of the body together
    shift_mm: tuple[float, float] = (0.0, 0.0)  # of the body off the middle of the image, (x, y)
    couch_mm: tuple[float, float] = (8.0, 36.0)  # the couch's gap to the back, and how much its sides stand up
    slice_mm: float = 4.0
    slices: int = 48
    streak_hu: float = 4.0  # strength of the streaks along the bones
    mr_bias: float = 0.25  # MR: amplitude of the coil's uneven sensitivity
    mr_noise: float = 18.0  # MR: standard deviation, of a signal up to 1000


def pixel_mm(one: an.Anatomy, look: Look, size: int) -> float:
    """Side of a pixel: the field of view holds the body and some air, about 320 to 450 mm."""
    widest = 1.03 * an.HALF_WIDTH * one.scale[0] + 1.1 * one.fat_mm * (0.75 + one.fat_sides)
    return round((2 * widest + look.margin_mm) / size, 4)


def scan(one: an.Anatomy, look: Look, size: int, rng) -> tuple[tuple, tuple, float]:
    """What a CT scanner gives: (HU int16, labels uint8) [Z, Y, X], the same of the twin without tumors, the pixel in mm.

    Both have the same noise, and the streaks of the twin: what the scanner adds says nothing of the tumors, and beyond 12 mm from
    them the two are equal to the bit (two slices and two pixels, where that is more). Without tumors both are the same arrays.
    """
    from scipy import ndimage

    pixel = pixel_mm(one, look, size)
    drawn = draw(one, (look.slices, size, size), (look.slice_mm, pixel, pixel), look.shift_mm, look.couch_mm)
    psf, rolloff = KERNELS[look.kernel]

    def blurred(hu):
        return ndimage.gaussian_filter(hu, (0.45, psf / pixel, psf / pixel), output=np.float32)

    y, x = np.ogrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    thick = np.exp(-(((x / 0.75) ** 2 + (y / 0.6) ** 2) ** 1.5)).astype(np.float32)
    free = drawn[1][0]
    added = noise(rng, free.shape, pixel, rolloff, look.noise_hu) * (0.55 + 0.45 * thick)
    if look.streak_hu > 0:
        added += streaks(blurred(free), look.streak_hu)

    def see(hu):
        return np.clip(np.rint(blurred(hu) + added), -1024, 3071).astype(np.int16)

    return *_pair(drawn, see), pixel


def _pair(drawn, see) -> tuple[tuple, tuple]:
    """The two drawings (image, labels) as `see` shows an image; one and the same where there are no tumors."""
    (with_tumors, labels), (free, free_labels) = drawn
    twin = see(free), free_labels
    return (twin if with_tumors is free else (see(with_tumors), labels)), twin


def scan_mr(one: an.Anatomy, look: Look, size: int, rng) -> tuple[tuple, tuple, float]:
    """What an MR scanner might give of the same body on the same grid, as `scan` does: signal int16, 0 to about 1000."""
    from scipy import ndimage

    pixel = pixel_mm(one, look, size)
    painted = replace(one, hu=dict(MR_CODES), oral=False, contrast_left=1.0)  # the injection is CT's affair
    drawn = draw(painted, (look.slices, size, size), (look.slice_mm, pixel, pixel), look.shift_mm)
    shape = drawn[0][0].shape
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, (look.slice_mm, pixel, pixel), strict=True)]
    coil = np.exp(look.mr_bias * an.spline_field([one.seed, 50], axes, 160.0))
    # Magnitude of a complex signal with noise in both parts (Rice): dark places stay above zero.
    strength = look.mr_noise * min(1.0, 0.75 / pixel)
    real, imaginary = (strength * rng.standard_normal(shape, dtype=np.float32) for _ in range(2))

    def see(codes):
        signal = np.interp(codes, MR_CURVE[:, 0], MR_CURVE[:, 1]).astype(np.float32)
        signal = coil * ndimage.gaussian_filter(signal, (0.45, 0.7 / pixel, 0.7 / pixel), output=np.float32)
        return np.clip(np.rint(np.hypot(signal + real, imaginary)), 0, 32767).astype(np.int16)

    return *_pair(drawn, see), pixel


def noise(rng, shape, pixel_mm: float, rolloff: float, std: float) -> np.ndarray:
    """Noise [Z, Y, X] with the spectrum f exp(-(f / rolloff)^2) of filtered back-projection, averaged over each pixel.

    `std` holds at 0.75 mm pixels; larger pixels see less of it, as a real image does that is averaged down.
    """

    def power(fx, fy, pixel):
        f2 = fx**2 + fy**2
        return np.sqrt(f2) * np.exp(-f2 / rolloff**2) * (np.sinc(fx * pixel) * np.sinc(fy * pixel)) ** 2

    def folded(n, pixel):
        f = np.fft.fftfreq(n, pixel)
        total = np.zeros((n, n))
        for i in range(-2, 3):  # frequencies beyond Nyquist come back as aliases
            for j in range(-2, 3):
                total += power(f[:, None] + i / pixel, f[None, :] + j / pixel, pixel)
        return total / pixel**2

    n = shape[-1]
    spectrum = folded(n, pixel_mm)
    gain = std / np.sqrt(folded(256, 0.75).mean())
    half = np.sqrt(spectrum)[:, : n // 2 + 1].astype(np.float32) * np.float32(gain)
    out = np.empty(shape, np.float32)
    for k in range(shape[0]):  # independent from slice to slice
        white = rng.standard_normal(shape[1:], dtype=np.float32)
        out[k] = np.fft.irfft2(np.fft.rfft2(white) * half, s=shape[1:])
    return out


@lru_cache(maxsize=2)
def _projector(n: int, angles: int):
    """Sparse [angles * bins, n * n]: parallel projections of an n x n image, linear interpolation between bins."""
    from scipy import sparse

    c = np.arange(n) - (n - 1) / 2
    y, x = (g.ravel() for g in np.meshgrid(c, c, indexing="ij"))
    bins = int(np.ceil(n * 1.5))
    rows, columns, weights = [], [], []
    for k, angle in enumerate(np.pi * np.arange(angles) / angles):
        t = x * np.cos(angle) + y * np.sin(angle) + (bins - 1) / 2
        low = np.floor(t).astype(int)
        for b, w in ((low, low + 1 - t), (low + 1, t - low)):
            rows.append(k * bins + b)
            columns.append(np.arange(n * n))
            weights.append(w)
    matrix = (np.concatenate(weights).astype(np.float32), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(matrix, shape=(angles * bins, n * n)), bins


def streaks(hu, strength: float) -> np.ndarray:
    """What beam hardening adds to CT slices [Z, Y, X]: bands between bones and about gas, about `strength` HU (root mean square
    inside the body).

    The rays that pass much bone arrive harder than the scanner believes, and those along edges of gas lose by averaging; both
    errors grow with the square of what the ray met. They are projected back with the ramp filter, on a coarse grid: streaks
    are wide.
    """
    from scipy import ndimage

    n, size = STREAK_GRID, hu.shape[-1]
    small = ndimage.zoom(hu, (1, n / size, n / size), order=1, grid_mode=True, mode="nearest")
    body = small > -300
    dense = np.clip((small - 150) / 1000, 0, None) - 0.25 * (
        ndimage.binary_fill_holes(body.any(axis=0))[None] & (small < -500)
    )
    project, bins = _projector(n, STREAK_ANGLES)
    sinogram = project @ dense.reshape(len(dense), -1).T.astype(np.float32)  # (angles * bins, Z)
    error = -(sinogram**2) * np.sign(sinogram).clip(min=0) + 0.5 * (sinogram**2) * (sinogram < 0)
    error = error.reshape(STREAK_ANGLES, bins, -1)
    ramp = np.abs(np.fft.rfftfreq(bins))[None, :, None]
    error = np.fft.irfft(np.fft.rfft(error, axis=1) * ramp, n=bins, axis=1).astype(np.float32)
    back = (project.T @ error.reshape(STREAK_ANGLES * bins, -1)).T.reshape(len(dense), n, n)
    back -= back.mean(axis=(1, 2), keepdims=True)
    inside = back[body]
    back *= np.float32(strength / max(float(np.sqrt((inside**2).mean())), 1e-6)) if len(inside) else 0
    back = np.clip(back, -6 * strength, 6 * strength)
    return ndimage.zoom(back, (1, size / n, size / n), order=1, grid_mode=True, mode="nearest")
