// From a picture to the square of R × R pixels a model was trained on: stylemed/data/resample.py, and data/body.py without the liver.
"use strict";
(() => {
  const play = self.stylemedPlay;
  const BODY_HU = -300, DARKEST_FAT_HU = -150, ABOVE_CUT = 20, SIGNAL = 0.1; // of data/body.py
  const GRID = 128, REACH = 1 / 25, USUAL = 0.05, MARGIN = 0.04, FAT_MARGIN = 0.08;

  // Row k of [count, n]: { first, values }, the mean over the area of new pixel k, or linear interpolation where these are smaller.
  function weights(n, mm, side, count, start) {
    const pixel = side / count / mm;
    return Array.from({ length: count }, (_, k) => {
      const low = start + k * pixel, centre = Math.min(n - 1, Math.max(0, low + 0.5 * pixel - 0.5));
      if (pixel < 1 && (low + 0.5 * pixel < 0 || low + 0.5 * pixel > n)) return { first: 0, values: [] };
      const first = Math.max(0, Math.floor(pixel < 1 ? centre : low)), last = Math.min(n, pixel < 1 ? first + 2 : Math.ceil(low + pixel));
      const share = (i) => (pixel < 1 ? Math.max(0, 1 - Math.abs(centre - i)) : (Math.min(low + pixel, i + 1) - Math.max(low, i)) / pixel);
      return { first, values: Array.from({ length: Math.max(0, last - first) }, (_, i) => share(first + i)) };
    });
  }

  // values [height * width] in a square { top, left, side }, mm from the picture's corner -> [count * count]; beyond it lies `fill`.
  function resample({ values, width, height, spacing, fill }, { top, left, side }, count) {
    const down = weights(height, spacing[0], side, count, top / spacing[0]);
    const across = weights(width, spacing[1], side, count, left / spacing[1]);
    const rows = down.map(({ first, values: parts }) => {
      const row = new Float64Array(width);
      parts.forEach((part, i) => {
        for (let x = 0; x < width; x++) row[x] += part * (values[(first + i) * width + x] - fill);
      });
      return row;
    });
    return Float32Array.from({ length: count * count }, (_, i) => {
      const { first, values: parts } = across[i % count], row = rows[Math.floor(i / count)];
      return parts.reduce((sum, part, k) => sum + part * row[first + k], fill);
    });
  }

  // The pieces of a mask, as lists of places.
  function pieces(mask, width) {
    const seen = new Uint8Array(mask.length), found = [];
    for (let at = 0; at < mask.length; at++) {
      if (!mask[at] || seen[at]) continue;
      const piece = [at];
      seen[at] = 1;
      for (const place of piece) { // grows while it is walked
        for (const next of [place - width, place + width, ...(place % width ? [place - 1] : []), ...((place + 1) % width ? [place + 1] : [])]) {
          if (mask[next] && !seen[next]) piece.push(next), (seen[next] = 1);
        }
      }
      found.push(piece);
    }
    return found;
  }

  function eroded(mask, width, times) {
    for (let i = 0; i < times; i++) {
      const last = mask;
      mask = last.map((on, at) => (on && at % width && (at + 1) % width && last[at - 1] && last[at + 1] && last[at - width] && last[at + width] ? 1 : 0));
    }
    return mask;
  }

  function dilated(mask, width, times) {
    for (let i = 0; i < times; i++) {
      const last = mask;
      mask = last.map((on, at) => (on || (at % width && last[at - 1]) || ((at + 1) % width && last[at + 1]) || last[at - width] || last[at + width] ? 1 : 0));
    }
    return mask;
  }

  function padded(mask, width, by) {
    const wide = width + 2 * by, out = new Uint8Array(wide * (mask.length / width + 2 * by));
    for (let at = 0; at < mask.length; at++) out[(Math.floor(at / width) + by) * wide + (at % width) + by] = mask[at];
    return out;
  }
  const cut = (mask, wide, by, width, height) => Uint8Array.from({ length: width * height }, (_, at) => mask[(Math.floor(at / width) + by) * wide + (at % width) + by]);

  // The largest piece of a mask, holes filled, things as thin as the table opened away.
  function bodyPiece(dense, width, thin) {
    const height = dense.length / width, mask = new Uint8Array(dense.length).fill(1), largest = new Uint8Array(dense.length);
    const edge = (at) => at % width === 0 || (at + 1) % width === 0 || at < width || at >= width * (height - 1);
    for (const piece of pieces(dense.map((on) => 1 - on), width)) if (piece.some(edge)) for (const at of piece) mask[at] = 0;
    const opened = dilated(eroded(mask, width, thin), width, thin);
    for (const at of pieces(opened, width).reduce((best, piece) => (piece.length > best.length ? piece : best), [])) largest[at] = 1;
    return largest;
  }

  const usual = (masks) => masks[0].map((_, at) => (masks.reduce((sum, mask) => sum + mask[at], 0) >= USUAL * masks.length ? 1 : 0));

  // Where the body usually is. Where fat is not seen, what is seen of muscles and ribs is joined.
  function bodyOutline(dense, width, fatSeen) {
    const height = dense[0].length / width, thin = Math.floor(height / 64);
    if (fatSeen) return usual(dense.map((mask) => bodyPiece(mask, width, thin)));
    let outline = usual(dense);
    if (thin) {
      const reach = Math.round(REACH * height), wide = width + 2 * reach;
      const apart = padded(dilated(eroded(outline, width, 1), width, 1), width, reach);
      outline = cut(eroded(dilated(apart, wide, reach), wide, reach), wide, reach, width, height);
    }
    return bodyPiece(outline, width, thin);
  }

  // The square around the body in some slices [height * width] of one volume: { top, left, side } in mm, null where no body is.
  // perHu: what a HU is in the slices' values; null for MR.
  function bodySquare(slices, width, height, spacing, perHu) {
    const step = Math.max(1, Math.floor(Math.max(width, height) / GRID)), across = Math.ceil(width / step), down = Math.ceil(height / step);
    const small = slices.map((values) => Float32Array.from({ length: across * down }, (_, i) => values[step * (Math.floor(i / across) * width + (i % across))]));
    const all = Float32Array.from(small.flatMap((values) => [...values])).sort();
    const fatSeen = perHu === null || all[0] < DARKEST_FAT_HU * perHu;
    const threshold = perHu === null ? SIGNAL * all[Math.round(0.99 * (all.length - 1))] : fatSeen ? Math.max(BODY_HU * perHu, all[0]) : all[0] + ABOVE_CUT * perHu;
    const outline = bodyOutline(small.map((values) => Uint8Array.from(values, (value) => (value > threshold ? 1 : 0))), across, fatSeen);
    const places = [...outline.keys()].filter((at) => outline[at]);
    if (!places.length) return null;
    const ends = (list, mm) => [Math.min(...list) * step * mm, (Math.max(...list) + 1) * step * mm];
    const [top, bottom] = ends(places.map((at) => Math.floor(at / across)), spacing[0]), [left, right] = ends(places.map((at) => at % across), spacing[1]);
    const side = Math.min(Math.max(bottom - top, right - left) * (1 + 2 * (fatSeen ? MARGIN : FAT_MARGIN)), largest(width, height, spacing));
    return { top: (top + bottom - side) / 2, left: (left + right - side) / 2, side };
  }

  const largest = (width, height, spacing) => Math.max(height * spacing[0], width * spacing[1]);

  function wholeSquare(width, height, spacing) {
    const side = largest(width, height, spacing);
    return { top: (height * spacing[0] - side) / 2, left: (width * spacing[1] - side) / 2, side };
  }

  Object.assign(play, { resample, bodySquare, wholeSquare });
})();
