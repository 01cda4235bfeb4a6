"""The body of a phantom patient: organs drawn as signed distances into a HU volume.

Everything is placed in the coordinates of a standard body, in mm: x to the patient's left (image right), y to the back
(image bottom), z toward the head, with the origin in the middle of the body at the height of the liver's hilum.
A patient's size and a smooth random warp turn voxel positions into these coordinates, so that one description of the
anatomy gives as many bodies as there are seeds, and the same body at every image size.
Each structure covers a voxel by clip(1/2 - distance / voxel size, 0, 1): partial volume without supersampling.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

HALF_WIDTH, HALF_DEPTH = 150.0, 113.0  # mm: outside of the muscle wall of the standard body
BACKGROUND, LIVER, TUMOR = 0, 1, 2

# HU of the contrast phases: what an injection changes, and nothing else.
ENHANCEMENT = {
    "none": dict(liver=58, spleen=47, cortex=35, medulla=32, aorta=42, vein=40, portal=40, bowel_wall=40),
    "arterial": dict(liver=72, spleen=120, cortex=190, medulla=80, aorta=290, vein=85, portal=110, bowel_wall=85),
    "portal": dict(liver=106, spleen=120, cortex=188, medulla=150, aorta=150, vein=148, portal=158, bowel_wall=85),
}

# How much of a lesion's contrast in the portal phase is left: without an injection tumor and liver differ little.
LESION_CONTRAST = {"none": 0.65, "arterial": 0.85, "portal": 1.0}
LEAST_SOLID = 25.0  # HU: solid tissue is denser than the fluid of a cyst
LEAST_CONTRAST = 16.0  # HU: in a fatty liver, where LEAST_SOLID leaves less than this, tumors are the denser ones


@dataclass
class Lesion:
    """One thing in the liver: a tumor of some kind, or a cyst (which is no tumor)."""

    kind: str  # hypodense, hyperdense, rim, necrotic, calcified; cyst
    centre: tuple[float, float, float]  # standard coordinates, mm
    radii: tuple[float, float, float]
    hu: float  # of a tumor, relative to the liver around it, in the portal phase; of a cyst, absolute
    irregular: float  # amplitude of the border's waves as a share of the radius
    seed: int

    @property
    def tumor(self) -> bool:
        return self.kind != "cyst"


@dataclass
class Anatomy:
    """Every factor that makes a patient; `lesions` are added once the liver's shape is known."""

    scale: tuple[float, float, float]  # patient / standard body along x, y, z
    corner: float  # exponent of the outline: 2 an ellipse, more is squarer
    harmonics: np.ndarray  # [4, 2] of the outline, as a share of its radius
    fat_mm: float
    fat_sides: float  # share more at the flanks than in front
    wall_mm: float
    liver: np.ndarray  # [8] size and place of the lobes, about N(0, 1)
    organs: np.ndarray  # [16] the same for the other organs
    ribs: tuple[float, float, float]  # phase in mm, pitch in mm, drop in mm per radian
    vertebra_phase: float
    stomach_gas: float  # share of the stomach's depth that is gas
    stomach_hu: float
    texture_hu: float  # mottle of the liver: what vessels too fine to see leave of themselves
    oral: bool  # contrast medium in the bowel
    hu: dict[str, float]
    seed: int
    contrast_left: float = 1.0  # LESION_CONTRAST of the phase
    lesions: list[Lesion] = field(default_factory=list)

    def lesion_hu(self, lesion: Lesion) -> float:
        """HU of the body of a lesion in this patient's liver and phase."""
        if not lesion.tumor:
            return lesion.hu
        liver, contrast = self.hu["liver"], self.contrast_left * lesion.hu
        if contrast > 0 or liver - LEAST_SOLID > LEAST_CONTRAST:
            return max(liver + contrast, LEAST_SOLID)
        return liver + LEAST_CONTRAST


# ---------------------------------------------------------------- distances


def ellipsoid(p, centre, radii, turn=0.0):
    """Distance (mm, negative inside) to an ellipsoid turned by `turn` radians in the slice."""
    x, y, z = p[0] - centre[0], p[1] - centre[1], p[2] - centre[2]
    if turn:
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        x, y = c * x + s * y, c * y - s * x
    a, b, c = (np.float32(r) for r in radii)
    k0 = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    k1 = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2 + (z / c**2) ** 2)
    return k0 * (k0 - 1) / np.maximum(k1, 1e-6)


def ellipse(p, centre, radii, turn=0.0):
    """The same for a cylinder along z."""
    return ellipsoid((p[0], p[1], np.float32(0)), (*centre, 0), (*radii, 1e6), turn)


def capsule(p, a, b, ra, rb):
    """Distance to a tube from a to b whose radius goes from ra to rb."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    d = b - a
    q = [p[i] - a[i] for i in range(3)]
    t = np.clip((q[0] * d[0] + q[1] * d[1] + q[2] * d[2]) / max(float(d @ d), 1e-3), 0, 1)
    gap = np.sqrt((q[0] - t * d[0]) ** 2 + (q[1] - t * d[1]) ** 2 + (q[2] - t * d[2]) ** 2)
    return gap - (ra + (rb - ra) * t)


def union(a, b, k):
    """Smooth minimum: the two shapes grow together over k mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0, 1)
    return b + (a - b) * h - k * h * (1 - h)


def cut(a, b, k):
    """Smooth maximum: what a and b share."""
    return -union(-a, -b, k)


def spline_field(seed, axes, scale, reach=320.0):
    """Smooth random field N(0, 1) [Z, Y, X] on a fixed lattice of `scale` mm: the same at every image size.

    `axes` are the z, y, x positions in mm. Cubic B-spline, four taps along each axis.
    """
    n = int(np.ceil(2 * reach / scale)) + 4
    values = np.random.default_rng(seed).standard_normal((n, n, n), dtype=np.float32)
    for axis, mm in enumerate(axes):
        t = (np.clip(np.asarray(mm, np.float64), -reach, reach) + reach) / scale
        i = np.minimum(t.astype(int), n - 4)
        f = t - i
        taps = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
        shape = [1, 1, 1]
        shape[axis] = len(i)
        values = sum(
            np.take(values, i + j, axis=axis) * (w / 6).astype(np.float32).reshape(shape) for j, w in enumerate(taps)
        )
    return values * np.float32(1 / 0.332)  # 0.332 = mean square of the taps, to the power 3/2


# ---------------------------------------------------------------- the large shapes


def outline(anatomy, p):
    """Distance to the outside of the muscle wall, the angle from the back (0) to the front (pi), and the radius."""
    x, y, z = p
    r = np.sqrt(x * x + y * y)
    c, s = np.abs(x) / np.maximum(r, 1e-3), np.abs(y) / np.maximum(r, 1e-3)
    n = np.float32(anatomy.corner)
    wide = HALF_WIDTH * (1 - 0.05 * np.clip(z / 90, 0, 1) ** 2)
    deep = HALF_DEPTH * (1 - 0.03 * np.clip(-z / 90, 0, 1))
    edge = ((c / wide) ** n + (s / deep) ** n) ** (-1 / n)
    angle = np.arctan2(x, y)  # 0 at the back, +-pi in front
    wave = np.float32(0)
    for k, (even, odd) in enumerate(anatomy.harmonics, start=2):
        wave = wave + even * np.cos(k * angle) + odd * np.sin(k * angle)
    groove = -0.035 * np.exp(-((angle / 0.16) ** 2))  # between the back muscles
    edge = edge * (1 + wave + groove)
    return r - edge, np.abs(angle), r


def cavity(anatomy, p, wall=None):
    """Distance to the inside of the wall: what holds lungs and abdominal organs."""
    d, angle, _ = wall if wall is not None else outline(anatomy, p)
    front = np.exp(-(((angle - np.pi) / 0.7) ** 2))
    flank = np.exp(-(((angle - 1.6) / 0.6) ** 2)) * np.clip(-p[2] / 60, -0.4, 1)  # thicker below the ribs
    inner = d + anatomy.wall_mm * (1 - 0.25 * front + 0.55 * flank)
    wide = 62 - 16 * np.clip(p[2] / 80, -1, 1)
    back = np.sqrt((p[0] / wide) ** 2 + ((p[1] - 92) / 46) ** 2)
    return cut(inner, (1 - back) * 44, 12.0)


def diaphragm(anatomy, p):
    """Distance to the two domes: inside is abdomen, outside (within the cavity) is lung."""
    o = anatomy.organs
    right = ellipsoid(p, (-66, -8, -42), (98, 118, 120 + 5 * o[0]))
    left = ellipsoid(p, (66, -12, -46), (100, 116, 114 + 5 * o[1]))
    middle = ellipsoid(p, (0, -20, -50), (60, 95, 118))
    return union(union(right, left, 25.0), middle, 25.0)


def liver_shape(anatomy, p, inner=None, dome=None):
    """Distance to the liver: two lobes and a caudate, cut by wall, diaphragm, kidney, fissure and hilum."""
    v = anatomy.liver
    inner = cavity(anatomy, p) if inner is None else inner
    dome = diaphragm(anatomy, p) if dome is None else dome
    size = 1 + 0.06 * v[0]
    right = ellipsoid(p, (-82, 2 + 3 * v[1], 0), (66 * size, 84 * size, 84 * size), 0.15)
    lower = ellipsoid(p, (-100, 2 + 4 * v[2], -42), (32, 60, 48 + 12 * v[3]), 0.1)
    segment4 = ellipsoid(p, (-32, -48, 18), (52 * size, 42, 46), 0.1)
    reach = 62 + 16 * v[4]
    left = ellipsoid(
        p, (10 + 0.35 * reach, -52 + 3 * v[5], 30), (reach, 27 + 5 * v[6], 34 + 6 * v[7]), -0.12 + 0.08 * v[1]
    )
    caudate = ellipsoid(p, (-16, -6, 22), (20, 18, 24))
    d = union(union(right, lower, 14.0), union(segment4, left, 12.0), 14.0)
    d = union(d, caudate, 8.0)
    # The visceral side is hollow where the duodenum, pancreas and stomach lie.
    d = cut(d, -ellipsoid(p, (26, 8, -28), (62, 46, 44)), 10.0)
    kx, ky, kz = right_kidney(anatomy)
    kidney = ellipsoid(p, (kx + 6, ky + 18, kz), (37, 52, 62))  # open to the back: no liver behind the kidney
    d = cut(d, -kidney, 8.0)
    teres = capsule(p, (6, -105, -40), (0, -58, 12), 5.0, 2.0)
    hilum = capsule(p, (-8, -8, -16), (-40, -16, -2), 9.0, 4.0)
    d = cut(d, -union(teres, hilum, 3.0), 4.0)
    return cut(cut(d, inner + 1.2, 4.0), dome + 0.8, 4.0)


def right_kidney(anatomy):
    o = anatomy.organs
    return (-61 + 3 * o[2], 36 + 4 * o[3], -62 + 9 * o[4])


def left_kidney(anatomy):
    o = anatomy.organs
    return (63 + 3 * o[5], 36 + 4 * o[6], -44 + 9 * o[7])


# ---------------------------------------------------------------- the canvas


class Canvas:
    """A HU volume with its labels, and the standard coordinates of every voxel."""

    def __init__(self, anatomy, shape, spacing, shift=(0.0, 0.0)):
        """`shape` [Z, Y, X], `spacing` (z, y, x) in mm; the body lies `shift` (x, y) mm off the middle of the image."""
        self.anatomy = anatomy
        sx, sy, sz = anatomy.scale
        scales = (sz, sy, sx)
        middle = (0.0, shift[1], shift[0])
        self.axes = [
            ((np.arange(n) - (n - 1) / 2) * mm - m) / s
            for n, mm, m, s in zip(shape, spacing, middle, scales, strict=True)
        ]
        self.axes[0] = self.axes[0] + 2.0  # a few mm more above the hilum than below
        self.pixel = np.float32(spacing[1] / np.sqrt(sx * sy))
        z, y, x = (a.astype(np.float32) for a in self.axes)
        warp = [spline_field([anatomy.seed, k], self.axes, 90.0) for k in range(3)]
        self.p = (
            x[None, None, :] + 5.0 * warp[0],
            y[None, :, None] + 4.0 * warp[1],
            z[:, None, None] + 7.0 * warp[2],
        )
        self.margin = 22.0  # the warp moves a point less than this
        self.hu = np.full(shape, -1000.0, np.float32)
        self.labels = np.zeros(shape, np.uint8)

    def box(self, lo, hi):
        """Index of the voxels that can lie between the corners lo and hi (x, y, z), or None."""
        index = []
        for axis, a, b in zip(self.axes, lo[::-1], hi[::-1], strict=True):
            inside = np.flatnonzero((axis >= a - self.margin) & (axis <= b + self.margin))
            if not len(inside):
                return None
            index.append(slice(inside[0], inside[-1] + 1))
        return tuple(index)

    def around(self, centre, reach):
        return self.box(
            [c - r for c, r in zip(centre, reach, strict=True)], [c + r for c, r in zip(centre, reach, strict=True)]
        )

    def at(self, index):
        return tuple(q[index] for q in self.p)

    def cover(self, d, soft=0.0):
        """Share of each voxel inside the shape whose distance is d."""
        return np.clip(0.5 - d / (self.pixel + np.float32(soft)), 0, 1)

    def paint(self, d, hu, index=..., soft=0.0, label=None):
        """Lay a shape over what is there; `label` also rewrites the labels (None keeps them)."""
        share = self.cover(d, soft)
        part = self.hu[index]
        part += share * (hu - part)
        if label is not None:
            self.labels[index][share > 0.5] = label
        return share

    def solid(self, centre, radii, hu, turn=0.0, label=BACKGROUND, soft=0.0, limit=None):
        """Paint an ellipsoid, optionally cut by the distance `limit` (full volume)."""
        reach = (max(radii[:2]),) * 2 + (radii[2],)
        index = self.around(centre, reach)
        if index is None:
            return
        d = ellipsoid(self.at(index), centre, radii, turn)
        if limit is not None:
            d = np.maximum(d, limit[index])
        self.paint(d, hu, index, soft, label)

    def tubes(self, segments, hu, label=None, limit=None, wall=None, grain=None):
        """Paint segments (a, b, ra, rb); `wall` = (mm, hu) paints a coat first."""
        coat = wall[0] if wall else 0.0
        jobs = []
        for a, b, ra, rb in segments:
            r = max(ra, rb) + coat
            index = self.box(np.minimum(a, b) - r, np.maximum(a, b) + r)
            if index is not None:
                d = capsule(self.at(index), a, b, ra, rb)
                jobs.append((index, d if limit is None else np.maximum(d, limit[index])))
        for index, d in jobs if wall else ():
            self.paint(d - coat, wall[1], index, label=label)
        for index, d in jobs:
            self.paint(d, hu if grain is None else hu + grain[index], index, label=label)
