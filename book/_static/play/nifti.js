// A reader of NIfTI-1 in one file, .nii or .nii.gz: slices as they are shown everywhere in the book, patient's right on the left.
"use strict";
(() => {
  const play = self.stylemedPlay;
  const PADDING = -1024; // lower values are what scanners write outside of their circle
  const KINDS = { 2: ["uint8", Uint8Array], 4: ["int16", Int16Array], 16: ["float32", Float32Array] };
  const MM = { 1: 1000, 2: 1, 3: 0.001 }; // of metres, millimetres, micrometres
  const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

  // The nearest whole number, of two the even one, as numpy's rint.
  function rint(value) {
    const low = Math.floor(value), rest = value - low;
    return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
  }

  async function gunzipped(bytes, name) {
    if (!(bytes[0] === 0x1f && bytes[1] === 0x8b)) return bytes;
    try {
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return new Uint8Array(await new Response(stream).arrayBuffer());
    } catch {
      throw new Error(`${name} is damaged or cut short; copy it again`);
    }
  }

  // Rows x, y, z of the affine, voxels to mm in a world that grows to the right, the front and the head (RAS).
  function affine(view, pixdim) {
    if (view.getInt16(254, true) > 0) {
      return [280, 296, 312].map((at) => [0, 4, 8].map((more) => view.getFloat32(at + more, true)));
    }
    if (!(view.getInt16(252, true) > 0)) return null;
    const [b, c, d] = [256, 260, 264].map((at) => view.getFloat32(at, true));
    const a = Math.sqrt(Math.max(0, 1 - b * b - c * c - d * d)), [x, y] = pixdim.slice(1), z = pixdim[3] * (pixdim[0] < 0 ? -1 : 1);
    return [
      [(a * a + b * b - c * c - d * d) * x, 2 * (b * c - a * d) * y, 2 * (b * d + a * c) * z],
      [2 * (b * c + a * d) * x, (a * a + c * c - b * b - d * d) * y, 2 * (c * d - a * b) * z],
      [2 * (b * d - a * c) * x, 2 * (c * d + a * b) * y, (a * a + d * d - b * b - c * c) * z],
    ];
  }

  // For the axes left, back, head in turn: which stored axis lies nearest, and whether it runs the other way.
  function turn(rows) {
    const lengths = [0, 1, 2].map((j) => Math.hypot(rows[0][j], rows[1][j], rows[2][j]));
    const along = rows.map((row) => row.map((value, j) => value / lengths[j]));
    const [p, q, r] = [0, 1, 2].map((j) => along.map((row) => row[j]));
    const volume = p[0] * (q[1] * r[2] - q[2] * r[1]) - p[1] * (q[0] * r[2] - q[2] * r[0]) + p[2] * (q[0] * r[1] - q[1] * r[0]);
    if (!(Math.abs(volume) > 1e-6)) return null; // NaN, too
    const fit = (order) => order.reduce((sum, j, i) => sum + Math.abs(along[i][j]), 0);
    const order = ORDERS.reduce((best, other) => (fit(other) > fit(best) ? other : best));
    return order.map((axis, i) => ({ axis, mm: lengths[axis], back: (i < 2 ? -1 : 1) * along[i][axis] < 0 }));
  }

  // { width, height, count, spacing: [y, x] in mm, slice(z) -> Float32Array [height * width] }; z grows toward the head.
  async function readNifti(file, name) {
    const bytes = await gunzipped(file, name), view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const long = (at) => (bytes.length >= 352 ? view.getInt32(at, true) : 0), short = (at) => view.getInt16(at, true);
    if (long(0) === 540) throw new Error(`${name} is NIfTI-2; save it as NIfTI-1`);
    if (long(0) === 0x5c010000) throw new Error(`${name} is big-endian; save it little-endian`);
    const magic = String.fromCharCode(...bytes.subarray(344, 347));
    if (long(0) !== 348 || !["n+1", "ni1"].includes(magic)) throw new Error(`${name} is neither a PNG nor a NIfTI file; export the slice or the volume as one of the two`);
    if (magic === "ni1") throw new Error(`${name} holds a header without its voxels; save both in one .nii file`);
    const sizes = [1, 2, 3, 4, 5, 6, 7].map((i) => (i <= short(40) ? short(40 + 2 * i) : 1)), size = sizes.slice(0, 3);
    if (short(40) < 3 || size.some((n) => n < 1) || sizes.slice(3).some((n) => n !== 1)) throw new Error(`${name} is not one three-dimensional volume; save one volume per file`);
    const [said, Kind] = KINDS[short(70)] ?? [];
    if (!said) throw new Error(`${name} stores its numbers as type ${short(70)}; save it as int16, uint8 or float32`);
    const pixdim = [0, 1, 2, 3].map((i) => view.getFloat32(76 + 4 * i, true)), rows = affine(view, pixdim), axes = rows && turn(rows);
    if (!axes) throw new Error(`${name} does not say how the patient lies; write its orientation with the tool that made it`);
    const start = view.getFloat32(108, true), total = size[0] * size[1] * size[2], end = start + total * Kind.BYTES_PER_ELEMENT;
    if (!(start >= 348) || bytes.length < end) throw new Error(`${name} is damaged or cut short; copy it again`);
    const stored = new Kind(bytes.buffer.slice(bytes.byteOffset + start, bytes.byteOffset + end));
    const slope = view.getFloat32(112, true), inter = view.getFloat32(116, true), scaled = Number.isFinite(slope) && slope !== 0;

    const unit = MM[bytes[123] & 7] ?? 1, strides = [1, size[0], size[0] * size[1]];
    const [width, height, count] = axes.map(({ axis }) => size[axis]);
    const steps = axes.map(({ axis, back }) => (back ? -strides[axis] : strides[axis]));
    const first = axes.reduce((sum, { axis, back }) => sum + (back ? (size[axis] - 1) * strides[axis] : 0), 0);
    const slice = (z) => {
      const out = new Float32Array(width * height);
      for (let y = 0, i = 0; y < height; y++) {
        for (let x = 0, at = first + z * steps[2] + y * steps[1]; x < width; x++, at += steps[0]) {
          const value = scaled ? stored[at] * slope + inter : stored[at];
          if (!Number.isFinite(value)) throw new Error(`${name} holds values that are no numbers; replace them (air is -1000 HU) and save it again`);
          out[i++] = Math.max(PADDING, rint(value));
        }
      }
      return out;
    };
    return { width, height, count, spacing: [axes[1].mm * unit, axes[0].mm * unit], slice };
  }

  Object.assign(play, { readNifti, rint });
})();
