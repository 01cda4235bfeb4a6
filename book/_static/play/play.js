// The controls of the generator, and what the reader test shares with them.
"use strict";
(() => {
  const play = self.stylemedPlay;

  function el(tag, properties = {}, ...children) {
    const { data, style, ...rest } = properties;
    const element = Object.assign(document.createElement(tag), rest);
    Object.assign(element.dataset, data);
    Object.assign(element.style, style);
    element.append(...children);
    return element;
  }

  // A slice of size² pixels, enlarged by a whole number of the screen's pixels; R and L are the patient's sides.
  class Slice {
    constructor(size, most) {
      this.most = most;
      this.canvas = el("canvas", { width: size, height: size, role: "img" });
      this.frame = el("span", { className: "play-slice" }, this.canvas, el("span", { textContent: "R" }), el("span", { textContent: "L" }));
      this.frame.querySelectorAll("span").forEach((mark) => mark.setAttribute("aria-hidden", "true"));
      this.element = el("div", { className: "play-room" }, this.frame);
      new ResizeObserver(() => this.fit()).observe(this.element);
    }

    fit() {
      const dense = self.devicePixelRatio || 1, room = Math.min(this.most, this.element.clientWidth);
      const side = (this.canvas.width * Math.max(1, Math.floor((room * dense) / this.canvas.width))) / dense;
      this.frame.style.width = this.frame.style.height = `${side}px`;
      this.frame.style.fontSize = `${Math.max(10, side / 16)}px`;
    }

    // -1 is black and 1 white, whatever the slice holds: `grey(i)` in 0 … 255, clamped here.
    draw(grey, said) {
      const context = this.canvas.getContext("2d"), size = this.canvas.width;
      const pixels = context.createImageData(size, size);
      for (let i = 0; i < size * size; i++) {
        const value = Math.round(Math.min(255, Math.max(0, grey(i))));
        pixels.data.set([value, value, value, 255], 4 * i);
      }
      context.putImageData(pixels, 0, 0);
      this.canvas.setAttribute("aria-label", said);
    }
  }

  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

  // A button that begins; what went wrong stands beside it, and it can be pressed again.
  function starter(place, label, begin) {
    const said = el("p", { className: "play-said", role: "status" });
    const button = el("button", { type: "button", className: "play-start", textContent: label });
    button.onclick = async () => {
      button.disabled = true;
      said.textContent = "Reading …";
      try {
        await begin(performance.now());
        button.remove();
        said.remove();
      } catch (error) {
        said.textContent = `This did not work: ${error.message}.`;
        button.disabled = false;
      }
    };
    place.replaceChildren(button, said);
  }

  // ---- the controls of the generator ---------------------------------------------------------------------

  class Player {
    constructor(place, generator, begun) {
      Object.assign(this, { place, generator, begun });
      this.state = { a: 1, b: 2, psi: 0.7, levels: [], steps: generator.directions.map(() => 0), noise: null };
      this.first = { ...this.state, steps: [...this.state.steps] };
      this.codes = new Map(); // w by seed
      this.last = {}; // the numbers behind the slices
      this.result = new Slice(generator.size, 384);
      this.sources = { a: new Slice(generator.size, 192), b: new Slice(generator.size, 192) };
      this.inputs = {};
      place.replaceChildren(this.stage());
      this.show();
    }

    stage() {
      this.time = el("p", { className: "play-said" });
      const back = el("button", { type: "button", textContent: "All as at first", onclick: () => this.set({ ...this.first, steps: [...this.first.steps] }) });
      return el("div", { className: "play-stage" },
        el("div", { className: "play-result" }, this.result.element, this.time),
        el("div", { className: "play-sources" }, this.source("a"), this.source("b")),
        el("div", { className: "play-controls" }, this.truncation(), this.mixing(), ...this.walks(), this.noise(), back));
    }

    source(name) {
      const letter = name.toUpperCase();
      const seed = (this.inputs[name] = el("input", { type: "number", min: 0, max: 2 ** 31 - 1, step: 1, id: `play-seed-${name}` }));
      seed.setAttribute("aria-label", `Seed of ${letter}`);
      seed.onchange = () => this.set({ [name]: Math.min(2 ** 31 - 1, Math.max(0, Math.floor(Number(seed.value)) || 0)) });
      const fresh = el("button", { type: "button", id: `play-new-${name}`, textContent: `New ${letter}` });
      fresh.onclick = () => this.set({ [name]: Math.floor(Math.random() * 1e6) });
      return el("div", { className: "play-source" }, this.sources[name].element,
        el("div", { className: "play-row" }, fresh, el("label", {}, "seed ", seed)));
    }

    // A slider with its name and its value, which stays where it is when `state` is set from elsewhere.
    slider(id, label, range, told, changed) {
      const input = el("input", { type: "range", id, ...range });
      const output = el("output", {});
      output.htmlFor = id;
      input.oninput = () => changed(Number(input.value));
      this.inputs[id] = (value) => {
        input.value = value;
        output.textContent = told(value);
        input.setAttribute("aria-valuetext", told(value));
      };
      return el("div", { className: "play-slider" }, el("label", { htmlFor: id, textContent: label }), input, output);
    }

    truncation() {
      return this.slider("play-psi", "Truncation ψ", { min: 0, max: 1, step: 0.05 }, (psi) => psi.toFixed(2), (psi) => this.set({ psi }));
    }

    mixing() {
      const boxes = this.generator.levels.map(({ label, layers }, i) => {
        const box = el("input", { type: "checkbox", id: `play-level-${i}`, disabled: !layers.length });
        const others = () => this.state.levels.filter((level) => level !== i);
        box.onchange = () => this.set({ levels: box.checked ? [...others(), i] : others() });
        this.inputs[box.id] = box;
        return el("label", { className: "play-box" }, box, ` ${label}`);
      });
      return el("fieldset", {}, el("legend", { textContent: "Styles taken from B" }), ...boxes);
    }

    walks() {
      return this.generator.directions.map(({ label }, i) =>
        this.slider(`play-walk-${i}`, `Walk: ${label}`, { min: -4, max: 4, step: 0.25 },
          (steps) => `${steps > 0 ? "+" : steps < 0 ? "−" : ""}${Math.abs(steps)} steps`,
          (value) => this.set({ steps: this.state.steps.map((old, k) => (k === i ? value : old)) })));
    }

    noise() {
      const again = el("button", { type: "button", id: "play-noise", textContent: "Redraw noise" });
      again.onclick = () => this.set({ noise: Math.floor(Math.random() * 1e6) });
      const stored = el("button", { type: "button", id: "play-noise-stored", textContent: "Stored noise" });
      stored.onclick = () => this.set({ noise: null });
      this.inputs.noise = el("span", {});
      return el("div", { className: "play-row" }, again, stored, this.inputs.noise);
    }

    set(change) {
      Object.assign(this.state, change);
      this.show();
    }

    // Make the page say what the state is, and the slices follow as fast as they are made.
    show() {
      const { a, b, psi, levels, steps, noise } = this.state;
      Object.assign(this.inputs.a, { value: a });
      Object.assign(this.inputs.b, { value: b });
      this.inputs["play-psi"](psi);
      this.generator.levels.forEach((_, i) => (this.inputs[`play-level-${i}`].checked = levels.includes(i)));
      steps.forEach((value, i) => this.inputs[`play-walk-${i}`](value));
      this.inputs.noise.textContent = noise === null ? "noise: stored" : `noise: seed ${noise}`;
      this.wanted = true;
      this.settled = this.running ??= this.renew().finally(() => (this.running = null));
    }

    async renew() {
      while (this.wanted) {
        this.wanted = false;
        const { a, b, psi, noise } = this.state, maps = this.generator.noise(noise);
        const started = performance.now();
        await this.image("result", await this.styles(), maps, `Slice made from A, seed ${a}, and B, seed ${b}`);
        const took = performance.now() - started;
        this.first_image ??= performance.now() - this.begun;
        this.time.textContent = `A with everything set here, in ${took.toFixed(0)} ms`;
        for (const [name, seed] of [["a", a], ["b", b]]) {
          const key = JSON.stringify([seed, psi, noise]);
          if (this.sources[name].key === key) continue;
          await this.image(name, this.generator.truncate(await this.code(seed), psi), maps, `Slice ${name.toUpperCase()}, seed ${seed}`);
          this.sources[name].key = key;
        }
        await new Promise((resolve) => setTimeout(resolve)); // let the page paint
      }
    }

    async code(seed) {
      if (!this.codes.has(seed)) this.codes.set(seed, await this.generator.map(play.normals(seed, this.generator.latent)));
      return this.codes.get(seed);
    }

    async styles() {
      const { a, b, psi, levels, steps } = this.state, { generator } = this;
      const [from_a, from_b] = [await this.code(a), await this.code(b)].map((w) => generator.truncate(w, psi));
      const mixed = generator.mix(from_a, from_b, levels.flatMap((i) => generator.levels[i].layers));
      return steps.reduce((styles, value, i) => (value ? generator.walk(styles, generator.directions[i], value) : styles), mixed);
    }

    async image(name, styles, maps, said) {
      const image = (this.last[name] = await this.generator.synthesize(styles, maps));
      (this.sources[name] ?? this.result).draw((i) => (image[i] + 1) * 127.5, said);
    }
  }

  Object.assign(play, { el, Slice, starter, megabytes });
  const place = document.getElementById("play-generator"), { about } = self.stylemedParts;
  if (!place) return;
  if (!about) {
    place.textContent = "There is nothing to play with here: no generator was there when these pages were built.";
    return;
  }
  starter(place, `Start the generator (${megabytes(about.bytes.runtime + about.bytes.model)})`, async (begun) => {
    const generator = await play.Generator.open();
    play.player = new Player(place, generator, begun);
    await play.player.settled;
  });
})();
