"""Paint a phantom patient, from the skin inwards: each function lays one organ system on the canvas."""

from __future__ import annotations

import numpy as np

from stylemed.phantom.anatomy import (
    BACKGROUND,
    LIVER,
    TUMOR,
    Canvas,
    capsule,
    cavity,
    cut,
    diaphragm,
    ellipse,
    ellipsoid,
    left_kidney,
    liver_shape,
    outline,
    right_kidney,
    spline_field,
    union,
)


def draw(anatomy, shape, spacing, shift=(0.0, 0.0), table=None):
    """One patient as (HU float32 without noise, labels 0, 1 liver, 2 tumor), both [Z, Y, X], and the same without tumors.

    Two such pairs, equal to the bit but at the tumors; without tumors both are the same arrays. shift: (x, y) mm of the body off
    the middle; table: (gap, sag) mm of the couch under the back, None without.
    """
    canvas = Canvas(anatomy, shape, spacing, shift)
    rng = np.random.default_rng([anatomy.seed, 100])
    wall = outline(anatomy, canvas.p)
    inner = cavity(anatomy, canvas.p, wall)
    dome = diaphragm(anatomy, canvas.p)
    grain = spline_field([anatomy.seed, 10], canvas.axes, 7.0)
    slow = spline_field([anatomy.seed, 11], canvas.axes, 22.0)
    if table:
        couch(canvas, *table)
    body_wall(canvas, wall, inner, grain, slow)
    inside(canvas, inner, dome, grain, slow, rng)
    skeleton(canvas, wall, grain)
    heart(canvas, inner, dome)
    bowel(canvas, inner, rng, grain)
    stomach(canvas, inner, dome, grain, slow)
    spleen_and_pancreas(canvas, inner, dome, grain)
    liver(canvas, inner, dome, slow, rng)
    body, drawn = (canvas.hu, canvas.labels), []
    for tumors in (False, True) if any(le.tumor for le in anatomy.lesions) else (False,):
        canvas.hu, canvas.labels = (part.copy() for part in body)
        for lesion in anatomy.lesions:
            if tumors or not lesion.tumor:
                paint_lesion(canvas, lesion)
        beside_the_liver(canvas, inner)
        kidneys(canvas, grain)
        great_vessels(canvas)
        drawn.append((canvas.hu, canvas.labels))
    return drawn[-1], drawn[0]


def couch(canvas, gap, sag):
    """Two thin curved sheets under the back; straight whatever the patient's warp."""
    a = canvas.anatomy
    z, y, x = canvas.axes
    below = a.scale[1] * 113 * 1.0 + a.fat_mm * 0.9
    mm_x, mm_y = x * a.scale[0], y * a.scale[1]
    for depth, hu in ((0.0, 180.0), (20.0, 40.0)):
        curve = below + depth + gap - sag * (mm_x / 190) ** 2
        d = np.abs(mm_y[:, None] - curve[None, :]) - 1.1
        d = np.maximum(d, np.abs(mm_x)[None, :] - 205).astype(np.float32)
        canvas.paint(np.broadcast_to(d, canvas.hu.shape), hu)


def body_wall(canvas, wall, inner, grain, slow):
    """Skin, subcutaneous fat, the muscle wall with its layers, the muscles of the back."""
    a, p = canvas.anatomy, canvas.p
    d, angle, _ = wall
    flank = np.exp(-(((angle - 1.5) / 0.8) ** 2))
    back = np.exp(-((angle / 0.5) ** 2))
    low = np.clip(0.5 - p[2] / 130, 0, 1)
    fat = a.fat_mm * (0.75 + a.fat_sides * flank + 0.25 * back + 0.06 * slow) * (0.65 + 0.6 * low) + 1.5
    canvas.paint(d - fat - 1.6, 15.0)
    canvas.paint(d - fat, -105 + 5 * slow, soft=0.5)
    # Septa: thin strands where a slow field crosses zero.
    strand = 55 * np.exp(-((grain / 0.12) ** 2)) * (np.abs(slow) < 0.9)
    canvas.hu += np.where((d > 2) & (d < fat - 2), strand, 0)
    streaks = np.clip(grain - 0.5, 0, 2) * (1 + 0.6 * back + 1.2 * flank * (1 - low))
    canvas.paint(d, a.hu["muscle"] - 24 * streaks)
    # Three layers at the flank below the ribs, with thin fat between them.
    thick = np.maximum(inner - d, 4)
    layer = np.abs(np.mod(-d / thick, 0.34) - 0.17) * thick
    flat = flank * np.clip(low * 1.8 - 0.5, 0, 1) * (d < -2.5) * (inner > 1.5)
    canvas.hu -= 90 * canvas.cover(layer - 0.4) * flat
    # Between the straight muscles in front, and between the muscle groups of the back.
    alba = np.maximum(np.abs(p[0]) - 2.2, np.maximum(p[1] + 60, np.maximum(d + 1, -inner)))
    canvas.paint(alba, -60.0, soft=1.0)
    for side in (-1, 1):
        gap = np.abs(ellipse(p, (side * 33, 80), (29, 19), side * 0.25)) - 0.8
        canvas.paint(np.maximum(np.maximum(gap - 0.7 * slow, d + 4), -inner + 2), 5.0, soft=1.5)


def inside(canvas, inner, dome, grain, slow, rng):
    """Peritoneal fat with mesenteric vessels, the lungs above the diaphragm, the psoas."""
    a, p = canvas.anatomy, canvas.p
    canvas.paint(inner, -104 + 5 * slow, soft=0.3)
    # Mesentery: strands and dots; few in lean patients.
    strand = np.exp(-((grain / 0.16) ** 2)) * np.clip(slow + 0.2, 0, 1)
    canvas.hu += np.where(inner < -3, 95 * strand, 0)
    lung = np.maximum(inner + 1.5, -dome)
    vessel = np.clip(grain - 1.5, 0, 1) * 700
    canvas.paint(lung, -860 + vessel + 25 * slow)
    crest = np.abs(np.maximum(dome, inner)) - 1.2  # the diaphragm itself
    canvas.paint(np.maximum(crest, inner), a.hu["muscle"] - 10)
    for side in (-1, 1):
        psoas = capsule(p, (side * 25, 20, 5), (side * 42, 34, -110), 3.0, 24.0)
        canvas.paint(psoas, a.hu["muscle"] + 6 * slow)
        lumborum = ellipsoid(p, (side * 60, 62, -80), (22, 9, 60), side * 0.35)
        canvas.paint(np.maximum(lumborum, p[2] + 20), a.hu["muscle"] + 4 * slow)


def skeleton(canvas, wall, grain):
    """Vertebrae with disc, canal, arch and processes; ribs cut obliquely; costal cartilage; sternum's tip."""
    a, p = canvas.anatomy, canvas.p
    index = canvas.box((-62, 4, -400), (62, 112, 400))
    x, y, z = canvas.at(index)
    g = grain[index]
    period = 31.0
    phase = (z + a.vertebra_phase) / period
    phase = phase - np.floor(phase)  # 0 disc, 0.5 middle of the vertebra
    level = np.abs(phase - 0.5) * period  # mm from the middle of the vertebra
    waist = 1 - 0.09 * np.cos((phase - 0.5) * 2 * np.pi)
    body = np.sqrt((x / (21.5 * waist)) ** 2 + ((y - 32) / (16.5 * waist)) ** 2)
    body = np.maximum((body - 1) * 18, 44 - y - 40 + (y - 4) * 2 - 42)  # flat at the back
    bone = a.hu["bone"]
    disc = np.clip((level - 11.5) / 2.0, 0, 1)
    canvas.paint(body, (1 - disc) * (bone + 330) + disc * 105, index)
    canvas.paint(body + 2.2, (1 - disc) * (bone + 45 * g) + disc * (95 + 4 * g), index)
    plate = np.clip(1 - np.abs(level - 11.0) / 1.6, 0, 1) * canvas.cover(body + 1.0)
    canvas.hu[index] += plate * 220
    # Arch around the canal, spinous and transverse processes, facets; pedicles only in the upper half.
    arch = np.abs(ellipse((x, y, z), (0, 57), (13.5, 11.5))) - 2.3
    arch = np.where(y < 52, np.maximum(arch, level - 8 + (phase < 0.4) * 4), np.maximum(arch, level - 13))
    spine = capsule((x, y, 0 * z), (0, 68, 0), (0, 92, 0), 3.4, 3.0)
    spine = np.maximum(spine, np.abs(phase - 0.28) * period - 7.5)
    side = np.abs(x)
    across = capsule((side, y, 0 * z), (13, 57, 0), (36, 66, 0), 4.0, 3.0)
    across = np.maximum(across, np.abs(phase - 0.6) * period - 5.5)
    facet = ellipse((side, y, z), (17, 63), (6.5, 7.5), 0.5)
    facet = np.maximum(facet, np.abs(np.abs(phase - 0.5) - 0.5) * period - 8)
    posterior = union(union(arch, spine, 3.0), union(across, facet, 2.0), 2.0)
    canvas.paint(posterior, bone + 370, index)
    canvas.paint(posterior + 2.0, bone + 60 * g, index)
    canal = ellipse((x, y, z), (0, 56.5), (10.5, 8.8))
    canvas.paint(canal, -30.0, index)
    canvas.paint(canal + 1.5, 28.0, index)
    ribs(canvas, wall, grain)
    tip = ellipsoid(p, (0, -103, 66), (13, 5, 26))
    canvas.paint(np.maximum(tip, wall[0] + 2), 120 + 40 * grain)


def ribs(canvas, wall, grain):
    """All ribs at once: tubes at a fixed depth of the wall that sink from the spine to the front."""
    a, p = canvas.anatomy, canvas.p
    d, angle, r = wall
    phase, pitch, drop = a.ribs
    # Behind 2.25 rad the cartilage climbs again, toward the sternum.
    reached = np.minimum(angle, 2.25) - 0.8 * np.maximum(angle - 2.25, 0)
    height = p[2] + drop * reached + phase + 4 * np.sign(p[0])
    number = np.floor(height / pitch + 0.5)
    along = height - number * pitch  # mm above the axis of the nearest rib
    slope = np.float32(drop) / np.maximum(r, 60)
    across = along / np.sqrt(1 + slope**2)
    depth = d + 0.5 * a.wall_mm + 15.0 * np.exp(-((angle / 0.55) ** 2))
    rib = (np.sqrt((depth / 3.8) ** 2 + (across / 5.7) ** 2) - 1) * 3.8
    # The lowest ribs are short; the others end in cartilage in front.
    end = np.where(number < 0, -1.0, np.minimum(0.95 + 0.45 * number, 2.25))
    ending = (angle - end) * 60
    rib = cut(rib, np.maximum(ending, (0.22 - angle) * 60), 3.0)
    bone = a.hu["bone"]
    canvas.paint(rib, bone + 420)
    canvas.paint(rib + 1.7, bone - 20 + 40 * grain)
    gristle = (np.sqrt((depth / 4.6) ** 2 + (across / 7.5) ** 2) - 1) * 4.6
    gristle = cut(gristle, np.maximum(-ending + 3, (angle - 2.95) * 60), 3.0)
    gristle = np.where(number >= 2, gristle, 50.0).astype(np.float32)
    canvas.paint(gristle, 105 + 35 * np.clip(grain, -1, 2))


def heart(canvas, inner, dome):
    """The heart on the diaphragm in its fat; oesophagus."""
    a = canvas.anatomy
    o = a.organs
    limit = np.maximum(inner + 4, -dome + 1)
    centre = (24 + 5 * o[8], -44, 94 + 6 * o[9])
    canvas.solid(centre, (68, 54, 52), -95.0, 0.3, limit=limit)
    canvas.solid(centre, (60, 47, 46), 0.35 * a.hu["muscle"] + 0.65 * a.hu["vein"], 0.3, limit=limit)
    for shift, radii, turn in (((-20, -10), (30, 22, 38), -0.6), ((20, 6), (27, 15, 36), 0.5)):
        c = (centre[0] + shift[0], centre[1] + shift[1], centre[2])
        canvas.solid(c, radii, 0.97 * a.hu["vein"], turn, limit=limit, soft=7.0)
    canvas.tubes([((6, -2, 46), (0, 6, 130), 7.0, 8.0)], 8.0, wall=(2.5, 55.0))


def bowel(canvas, inner, rng, grain):
    """Colon with gas and stool, loops of small bowel; wandering tubes that keep out of the liver's side."""
    a = canvas.anatomy
    wall_hu = a.hu["bowel_wall"]
    limit = inner + 3.0

    def walk(start, heading, steps, radius, step=11.0, bend=0.8):
        point, out = np.array(start, float), []
        heading = np.array(heading, float)
        for _ in range(steps):
            heading = heading + bend * rng.standard_normal(3)
            heading /= np.linalg.norm(heading)
            nxt = point + step * heading
            r = radius * rng.uniform(0.8, 1.15)
            out.append((tuple(point), tuple(nxt), r, radius))
            point = nxt
        return out

    for _ in range(30):
        start = (rng.uniform(-45, 100), rng.uniform(-80, 5), rng.uniform(-115, -20))
        fill = rng.choice([15.0, 35.0, 120.0], p=[0.4, 0.45, 0.15])
        drunk = rng.uniform(180, 420)  # contrast medium has not come everywhere
        if a.oral and rng.uniform() < 0.6:
            fill = drunk
        canvas.tubes(
            walk(start, rng.standard_normal(3), 9, rng.uniform(8, 14)), fill, BACKGROUND, limit, (2.2, wall_hu)
        )
    transverse = [
        ((-78, -62, -62), (-30, -84, -58), 15, 16),
        ((-30, -84, -58), (40, -86, -40), 16, 17),
        ((40, -86, -40), (98, -40, 0), 17, 15),
    ]
    down = [((98, -40, 0), (116, 14, -14), 14, 12), ((116, 14, -14), (112, 30, -130), 12, 10)]
    up = [((-100, 10, -130), (-96, 0, -78), 20, 17), ((-96, 0, -78), (-78, -62, -62), 17, 15)]
    shift = rng.normal(0, 7, 3)
    gas = rng.uniform() < 0.75
    for part in (transverse, down, up):
        part = [(np.add(s, shift), np.add(e, shift), ra, rb) for s, e, ra, rb in part]
        stool = 10 + 90 * np.clip(-grain, -1, 2) - 420 * np.clip(grain - 0.5, 0, 1)
        canvas.tubes(part, 0.0, BACKGROUND, limit, (2.2, wall_hu), grain=stool)
        if gas and part is not up:
            top = [(np.add(s, (0, -5, 0)), np.add(e, (0, -5, 0)), ra * 0.62, rb * 0.62) for s, e, ra, rb in part]
            canvas.tubes(top, -930.0, BACKGROUND, limit)


def stomach(canvas, inner, dome, grain, slow):
    """Wall, food or fluid, and gas above a level that is flat because the patient lies on the back."""
    a, p = canvas.anatomy, canvas.p
    o = a.organs
    centre = (62 + 5 * o[10], -34 + 4 * o[11], 30 + 8 * o[12])
    radii = (40 + 5 * o[13], 46 + 3 * o[14], 52)
    d = ellipsoid(p, centre, radii, 0.5)
    antrum = capsule(p, (50, -62, -5), (2, -66, -30), 20.0, 13.0)
    d = cut(union(d, antrum, 14.0), np.maximum(inner + 4, dome + 4), 6.0)
    fold = 1.6 * np.sin(1.4 * slow * 3)
    canvas.paint(d, a.hu["bowel_wall"], label=BACKGROUND)
    lumen = d + 4.5 + fold
    canvas.paint(lumen, a.stomach_hu + 14 * grain - 160 * np.clip(grain - 1.3, 0, 1))
    y = canvas.axes[1].astype(np.float32)[None, :, None]  # not warped: the level stays flat
    level = y - (centre[1] - radii[1] + 2 * radii[1] * a.stomach_gas)
    canvas.paint(np.maximum(lumen, level), -960.0)


def spleen_and_pancreas(canvas, inner, dome, grain):
    a, p = canvas.anatomy, canvas.p
    o = a.organs
    body = ellipsoid(p, (108 + 3 * o[8], 40 + 4 * o[9], 22 + 6 * o[15]), (40, 58 + 4 * o[10], 58 + 8 * o[12]), -0.35)
    hollow = ellipsoid(p, (62, 2, 22), (42, 46, 80))
    d = cut(cut(body, -hollow, 7.0), np.maximum(inner + 2.5, dome + 3), 5.0)
    canvas.paint(d, a.hu["spleen"] + 2 * grain, label=BACKGROUND)
    gland = [
        ((-18, -22, -38), (-8, -30, -16), 13, 11),
        ((-8, -30, -16), (26, -24, 0), 10, 9),
        ((26, -24, 0), (62, -2, 10), 9, 8),
        ((62, -2, 10), (84, 14, 18), 8, 6),
    ]
    for s, e, ra, rb in gland:
        r = max(ra, rb) + 3
        index = canvas.box(np.minimum(s, e) - r, np.maximum(s, e) + r)
        if index is not None:
            canvas.paint(capsule(canvas.at(index), s, e, ra, rb) + 2.6 * grain[index], a.hu["pancreas"], index)


def liver(canvas, inner, dome, slow, rng):
    """Parenchyma and its vessels."""
    a, p = canvas.anatomy, canvas.p
    d = liver_shape(a, p, inner, dome)
    coarse = spline_field([a.seed, 12], canvas.axes, 11.0)
    fine = spline_field([a.seed, 13], canvas.axes, 6.0)
    mottle = 2.0 * slow + a.texture_hu * (0.45 * coarse + 0.9 * fine)
    canvas.paint(d, a.hu["liver"] + mottle, label=LIVER)
    canvas.liver = d
    within = d + 1.5
    hepatic = []
    cava = (-20, 2, 62)
    for tip in ((-128, 18, 20), (-74, -70, 14), (44, -62, 34)):
        hepatic += branch(rng, cava, tip, 5.0, 3)
    canvas.tubes(hepatic, a.hu["vein"], limit=within)
    fork = (-30, -14, 4)
    portal = []
    for tip, radius in (((-96, -42, 6), 6.0), ((-104, 34, -8), 6.0), ((26, -52, 22), 4.6), ((-100, 10, -50), 4.5)):
        portal += branch(rng, fork, tip, radius, 3)
    canvas.tubes(portal, a.hu["portal"], limit=within)


def beside_the_liver(canvas, inner):
    """Gallbladder and the trunk of the portal vein, which lie over the liver's lesions."""
    a = canvas.anatomy
    o = a.organs
    bladder = [((-48 + 3 * o[0], -46, -24), (-58 + 4 * o[1], -70 + 3 * o[2], -48), 8.0, 15.0 + 2 * o[3])]
    canvas.tubes(bladder, 8.0, BACKGROUND, inner + 3, (1.6, 60.0))
    canvas.tubes([((-22, -14, -38), (-30, -14, 2), 8.0, 7.0)], a.hu["portal"], limit=inner)


def branch(rng, start, tip, radius, depth):
    """A bent vessel from start to tip that gives off side branches, as tubes (a, b, ra, rb)."""
    start, tip = np.asarray(start, float), np.asarray(tip, float)
    length = np.linalg.norm(tip - start)
    points = [start + (tip - start) * t for t in (0.0, 0.28, 0.55, 0.8, 1.0)]
    points = [q + rng.normal(0, 0.06 * length, 3) * (0 < i) for i, q in enumerate(points)]
    radii = radius * np.array([1.0, 0.88, 0.74, 0.6, 0.42])
    out = [(points[i], points[i + 1], radii[i], radii[i + 1]) for i in range(4)]
    if depth > 1:
        for i in (1, 2, 3):
            along = (points[i + 1] - points[i - 1]) / (np.linalg.norm(points[i + 1] - points[i - 1]) + 1e-6)
            away = rng.standard_normal(3)
            away -= along * (away @ along)
            away = 0.75 * away / np.linalg.norm(away) + 0.75 * along
            out += branch(
                rng, points[i], points[i] + away * length * rng.uniform(0.35, 0.55), radii[i] * 0.66, depth - 1
            )
    return out


def lesion_distance(lesion, p, liver, axes):
    """Distance to a lesion with its irregular border, cut by the liver's surface."""
    d = ellipsoid(p, lesion.centre, lesion.radii)
    if lesion.irregular:
        size = float(np.mean(lesion.radii))
        coarse = spline_field([lesion.seed, 0], axes, max(0.9 * size, 5.0))
        fine = spline_field([lesion.seed, 1], axes, max(0.45 * size, 4.0))
        d = d + lesion.irregular * size * (0.7 * coarse + 0.4 * fine)
    return np.maximum(d, liver + 0.8)


def paint_lesion(canvas, lesion):
    """A lesion, cut by the liver's surface; tumors alone carry label 2."""
    a = canvas.anatomy
    reach = [1.6 * r + 3 for r in lesion.radii]
    index = canvas.around(lesion.centre, reach)
    if index is None:
        return
    axes = [axis[s] for axis, s in zip(canvas.axes, index, strict=True)]
    p = canvas.at(index)
    d = lesion_distance(lesion, p, canvas.liver[index], axes)
    size = float(np.mean(lesion.radii))
    if lesion.kind == "cyst":
        canvas.paint(d, a.lesion_hu(lesion), index, soft=0.4)
        return
    mottle = spline_field([lesion.seed, 2], axes, 6.0)
    base = a.lesion_hu(lesion) + 7 * mottle
    canvas.paint(d, base, index, soft=1.5 if lesion.kind != "hyperdense" else 0.5, label=TUMOR)
    if lesion.kind == "rim":
        ring = np.exp(-(((d + 0.14 * size) / max(0.16 * size, 1.2)) ** 2)) * canvas.cover(d)
        canvas.hu[index] += ring * (0.1 * a.hu["aorta"] + 15 - 0.3 * a.contrast_left * lesion.hu)
    elif lesion.kind == "necrotic":
        core = d + 0.42 * size + 0.08 * size * mottle
        canvas.paint(core, 26.0 + 6 * mottle, index, soft=2.0)
    elif lesion.kind == "calcified":
        speck = spline_field([lesion.seed, 3], axes, max(0.3 * size, 3.5))
        canvas.paint(np.maximum((1.1 - speck) * 2.5, d + 0.25 * size), 420.0, index, soft=1.0)


def kidneys(canvas, grain):
    """Fat capsule, cortex, pyramids, sinus fat opening to the front and the middle, pelvis."""
    a = canvas.anatomy
    for side, centre in ((-1, right_kidney(a)), (1, left_kidney(a))):
        reach = (46, 46, 70)
        index = canvas.around(centre, reach)
        if index is None:
            continue
        p = canvas.at(index)
        tilt = side * (0.35 + 0.1 * a.organs[3])
        lean = (centre[0] + side * 0.18 * (centre[2] - p[2]), centre[1] - 0.06 * (centre[2] - p[2]), centre[2])
        d = ellipsoid(p, lean, (24.5, 29.5, 53.0), tilt)
        x, y, z = p[0] - lean[0], p[1] - lean[1], p[2] - lean[2]
        canvas.paint(np.maximum(d - 5.0, -(canvas.liver[index]) - 4), -102.0, index, soft=2.0, label=None)
        # The hilum opens toward the spine and a little to the front.
        ux, uy = -side * np.cos(0.45), -np.sin(0.45)
        toward = x * ux + y * uy
        aside = np.abs(-x * uy + y * ux)
        sinus = np.sqrt((np.minimum(toward - 6, 0) / 14) ** 2 + (aside / 7.5) ** 2 + (z / 25) ** 2)
        sinus = (sinus - 1) * 7.5 + 2.0 * grain[index]
        canvas.paint(np.maximum(d, -sinus), a.hu["cortex"], index, label=BACKGROUND)
        around_axis = np.arctan2(aside, toward)
        wedge = np.cos(around_axis * 5 + 0.12 * z) - 0.15
        pyramid = np.maximum(np.maximum(d + 6.5, -(sinus - 1.5)), -wedge * 6)
        canvas.paint(pyramid, a.hu["medulla"], index, soft=2.0)
        pelvis = capsule((toward, aside, z), (0, 0, -6), (26, 0, -12), 4.5, 2.5)
        canvas.paint(pelvis, 22.0, index, soft=1.0)
        stem = canvas.cover(capsule((toward, aside, z), (2, 3, 4), (44, 2, 10), 3.6, 4.2))
        canvas.hu[index] += stem * (a.hu["vein"] - canvas.hu[index]) * (canvas.hu[index] < 20)


def great_vessels(canvas):
    """Aorta with its first branches, inferior vena cava, crura of the diaphragm, the azygos, adrenals."""
    a = canvas.anatomy
    aorta, vein, muscle = a.hu["aorta"], a.hu["vein"], a.hu["muscle"]
    canvas.tubes([((-4, 8, -60), (-6, 8, 40), 4.0, 4.5), ((14, 14, -50), (16, 14, 40), 3.5, 4.5)], muscle)
    for side in (-1, 1):
        x = side * 44 + (4 if side > 0 else -6)
        canvas.tubes(
            [((x, 8, -2), (x + side * 9, 24, 2), 2.6, 1.8), ((x, 8, -2), (x - side * 4, 24, 4), 2.4, 1.8)], 75.0
        )
    cava = [
        ((-22, 6, -150), (-22, 4, 0), 10.5, 10.5),
        ((-22, 4, 0), (-20, 0, 62), 10.5, 12.5),
        ((-20, 0, 62), (-12, -16, 96), 12.0, 12.0),
    ]
    canvas.tubes(cava, vein, BACKGROUND)
    canvas.tubes([((9, 3, -150), (8, 3, 20), 9.0, 10.0), ((8, 3, 20), (12, 12, 110), 10.5, 11.0)], aorta, BACKGROUND)
    canvas.tubes(
        [
            ((8, 0, 12), (8, -20, 8), 4.0, 3.4),
            ((8, 0, -4), (9, -22, -22), 4.0, 3.6),
            ((9, -22, -22), (9, -26, -120), 3.6, 3.4),
            ((8, -20, 8), (-20, -24, 4), 2.6, 2.2),
        ],
        aorta,
    )
    canvas.tubes(
        [
            ((-20, -22, -22), (40, -8, 4), 4.8, 4.2),
            ((40, -8, 4), (88, 18, 16), 4.2, 3.6),
            ((-20, -24, -26), (-16, -28, -120), 5.0, 4.6),
            ((-2, 14, 50), (-2, 14, 120), 2.6, 2.6),
        ],
        vein,
    )
