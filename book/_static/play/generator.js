// A StyleGAN generator and its encoder in the page: ONNX graphs (stylemed/networks/graphs.py) on onnxruntime's WebAssembly, one thread.
// Between the graphs lie truncation, mixing and walks: sums of styles, as in stylemed/networks/generator.py and stylemed/latent/.
"use strict";
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, "");

  // A page opened from a file may read nothing but scripts; so every part is a script, also over http.
  function load(name, file = `${name}.js`) {
    if (self.stylemedParts[name]) return Promise.resolve(self.stylemedParts[name]);
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = here + file;
      script.onload = () => resolve(self.stylemedParts[name]);
      script.onerror = () => (script.remove(), reject(new Error(`${file} could not be read`)));
      document.head.append(script);
    });
  }

  function fromBase64(text) {
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  }

  async function unpacked(text) { // gzip in base64
    const stream = new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  const floats = (text) => new Float32Array(fromBase64(text).buffer);

  // Mulberry32: 32 bits of state, uniform in [0, 1).
  function uniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  // Standard normal numbers by Box and Muller; the same for the same seed, everywhere.
  function normals(seed, count) {
    const next = uniform(seed), out = new Float32Array(count);
    for (let i = 0; i < count; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - next())), angle = 2 * Math.PI * next();
      out[i] = radius * Math.cos(angle);
      if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }

  async function onnxruntime() {
    const runtime = await load("runtime", "../vendor/onnxruntime/runtime.js");
    const address = URL.createObjectURL(new Blob([await unpacked(runtime.program)], { type: "text/javascript" }));
    const ort = await import(address);
    URL.revokeObjectURL(address);
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: (await unpacked(runtime.wasm)).buffer });
    return ort;
  }

  const session = (ort, graph) => ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });

  class Generator {
    static async open() {
      const [ort, model] = await Promise.all([onnxruntime(), load("model")]);
      const generator = new Generator(ort, model);
      generator.mapping = await session(ort, fromBase64(model.mapping));
      generator.synthesis = await session(ort, fromBase64(model.synthesis));
      return generator;
    }

    constructor(ort, model) {
      Object.assign(this, { ort, size: model.resolution, layers: model.layers, latent: model.latent, truncated: model.truncated });
      this.levels = model.levels;
      this.mean = floats(model.w_avg);
      this.directions = model.directions.map((direction) => ({ ...direction, vector: floats(direction.vector) }));
      this.sides = Array.from({ length: this.layers }, (_, layer) => 4 << (layer >> 1));
      this.stored = this.cut(floats(model.noise));
    }

    // One map per layer out of all numbers in a row.
    cut(numbers) {
      let at = 0;
      return this.sides.map((side) => numbers.subarray(at, (at += side * side)));
    }

    noise(seed) { // null: the stored maps
      if (seed === null) return this.stored;
      return this.cut(normals(seed, this.sides.reduce((sum, side) => sum + side * side, 0)));
    }

    async map(z) { // [latent] -> [latent]
      const { w } = await this.mapping.run({ z: new this.ort.Tensor("float32", z, [1, this.latent]) });
      return w.data.slice();
    }

    // w [latent] or w+ [L * latent] -> w+ [L * latent], the first layers pulled towards the mean by psi.
    truncate(w, psi) {
      return Float32Array.from({ length: this.layers * this.latent }, (_, at) => {
        const i = at % this.latent, value = w[w.length === this.latent ? i : at];
        return at < this.truncated * this.latent ? this.mean[i] + (value - this.mean[i]) * psi : value;
      });
    }

    // Styles of a with some layers taken from b.
    mix(a, b, layers) {
      const styles = a.slice();
      for (const layer of layers) styles.set(b.subarray(layer * this.latent, (layer + 1) * this.latent), layer * this.latent);
      return styles;
    }

    // One step changes the direction's score by 1.
    walk(styles, direction, steps) {
      const moved = styles.slice(), length = steps * direction.step;
      for (const layer of direction.layers) {
        for (let i = 0; i < this.latent; i++) moved[layer * this.latent + i] += length * direction.vector[i];
      }
      return moved;
    }

    async synthesize(styles, noise) { // w+, maps -> [C * R * R], about [-1, 1]
      const feeds = { w_plus: new this.ort.Tensor("float32", styles, [1, this.layers, this.latent]) };
      this.sides.forEach((side, layer) => {
        feeds[`noise${layer}`] = new this.ort.Tensor("float32", noise[layer], [1, 1, side, side]);
      });
      return (await this.synthesis.run(feeds)).image.data;
    }
  }

  class Encoder {
    static async open({ ort, size }) { // beside its Generator
      const part = await load("encoder"), encoder = new Encoder();
      Object.assign(encoder, { ort, size, frame: part.frame, windows: part.windows });
      encoder.session = await session(ort, await unpacked(part.graph));
      return encoder;
    }

    async encode(image) { // [R * R] in [-1, 1] -> w+ [L * latent]
      const { w_plus } = await this.session.run({ image: new this.ort.Tensor("float32", image, [1, 1, this.size, this.size]) });
      return w_plus.data.slice();
    }
  }

  self.stylemedPlay = { load, unpacked, uniform, normals, Generator, Encoder };
})();
