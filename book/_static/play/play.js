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

    // -1 is black and 1 white, whatever the slice holds: `grey(i)` in 0 … 255, clamped here; or three numbers for a colour.
    draw(grey, said) {
      paint(this.canvas, grey);
      this.canvas.setAttribute("aria-label", said);
    }
  }

  function paint(canvas, grey) {
    const context = canvas.getContext("2d"), pixels = context.createImageData(canvas.width, canvas.height);
    const whole = (value) => Math.round(Math.min(255, Math.max(0, value)));
    for (let i = 0; i < canvas.width * canvas.height; i++) {
      const value = grey(i), color = Array.isArray(value) ? value.map(whole) : Array(3).fill(whole(value));
      pixels.data.set([...color, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
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

  // What of it a figure shows: the sources' slices or only their seeds, and the controls.
  const KINDS = {
    all: { sources: { a: true, b: true }, controls: ["truncation", "mixing", "walks", "noise"] },
    truncation: { sources: { a: false }, controls: ["truncation"] },
    mixing: { sources: { a: true, b: true }, controls: ["mixing"] },
    walk: { sources: { a: true }, controls: ["walks"] },
  };

  // State: seeds a and b (null: the slice of one's own), psi, levels taken from b, steps along each direction, noise's seed or null.
  class Player {
    constructor(place, generator, begun, kind = KINDS.all) {
      Object.assign(this, { place, generator, begun, kind });
      this.state = { a: 1, b: 2, psi: 0.7, levels: [], steps: generator.directions.map(() => 0), noise: null };
      this.first = { ...this.state, steps: [...this.state.steps] };
      this.codes = new Map(); // w by seed; w+ of a slice of one's own by null
      this.last = {}; // the numbers behind the slices
      this.result = new Slice(generator.size, 384);
      this.sources = {};
      for (const [name, shown] of Object.entries(kind.sources)) if (shown) this.sources[name] = new Slice(generator.size, 192);
      this.inputs = {};
      place.replaceChildren(this.stage());
      this.show();
    }

    stage() {
      this.time = el("p", { className: "play-said" });
      const save = el("button", { type: "button", id: "play-save", textContent: "Save as PNG", onclick: () => this.save() });
      const back = el("button", { type: "button", textContent: "All as at first", onclick: () => this.set({ ...this.first, steps: [...this.first.steps] }) });
      return el("div", { className: "play-stage" },
        el("div", { className: "play-result" }, this.result.element, this.time, save),
        el("div", { className: "play-sources" }, ...Object.keys(this.kind.sources).map((name) => this.source(name))),
        el("div", { className: "play-controls" }, ...this.kind.controls.flatMap((name) => this[name]()), back));
    }

    // The large slice in its own pixels, 8 bits.
    save() {
      this.result.canvas.toBlob((blob) => {
        const link = el("a", { href: URL.createObjectURL(blob), download: "slice.png" });
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      });
    }

    source(name) {
      const letter = name.toUpperCase();
      const seed = (this.inputs[name] = el("input", { type: "number", min: 0, max: 2 ** 31 - 1, step: 1, placeholder: "yours", id: `play-seed-${name}` }));
      seed.setAttribute("aria-label", `Seed of ${letter}`);
      seed.onchange = () => this.set({ [name]: Math.min(2 ** 31 - 1, Math.max(0, Math.floor(Number(seed.value)) || 0)) });
      const fresh = el("button", { type: "button", id: `play-new-${name}`, textContent: `New ${letter}` });
      fresh.onclick = () => this.set({ [name]: Math.floor(Math.random() * 1e6) });
      return el("div", { className: "play-source" }, this.sources[name]?.element ?? "",
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
      for (const [name, seed] of [["a", a], ["b", b]]) if (this.inputs[name]) this.inputs[name].value = seed ?? "";
      this.inputs["play-psi"]?.(psi);
      this.generator.levels.forEach((_, i) => {
        const box = this.inputs[`play-level-${i}`];
        if (box) box.checked = levels.includes(i);
      });
      steps.forEach((value, i) => this.inputs[`play-walk-${i}`]?.(value));
      if (this.inputs.noise) this.inputs.noise.textContent = noise === null ? "noise: stored" : `noise: seed ${noise}`;
      this.wanted = true;
      this.settled = this.running ??= this.renew().finally(() => (this.running = null));
    }

    // Styles w+ [L * latent] of a slice of one's own, in the place of every source that shows it.
    own(styles) {
      this.codes.set(null, styles);
      for (const source of Object.values(this.sources)) source.key = null;
      if (this.state.a === null || this.state.b === null) this.show();
    }

    async renew() {
      while (this.wanted) {
        this.wanted = false;
        const { a, b, psi, noise } = this.state, maps = this.generator.noise(noise);
        const started = performance.now(), told = (seed) => (seed === null ? "the slice of your own" : `seed ${seed}`);
        await this.image("result", await this.styles(), maps, `Slice made from A, ${told(a)}, and B, ${told(b)}`);
        const took = performance.now() - started;
        this.first_image ??= performance.now() - this.begun;
        this.time.textContent = `A with everything set here, in ${took.toFixed(0)} ms`;
        for (const [name, seed] of [["a", a], ["b", b]]) {
          const key = JSON.stringify([seed, psi, noise]);
          if (!this.sources[name] || this.sources[name].key === key) continue;
          this.sources[name].key = key;
          await this.image(name, this.generator.truncate(await this.code(seed), psi), maps, `Slice ${name.toUpperCase()}, ${told(seed)}`);
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

  // The generator of the page, opened once; whoever asks first starts it, and its controls take the place of its button.
  function started(begun) {
    opening ??= play.Generator.open().then((generator) => {
      play.player = new Player(place, generator, begun, KINDS[place.dataset.figure ?? "all"]);
      document.dispatchEvent(new Event("play-started"));
      return play.player.settled;
    });
    return opening.catch((error) => ((opening = null), Promise.reject(error)));
  }

  Object.assign(play, { el, paint, Slice, starter, started, megabytes });
  const place = document.getElementById("play-generator"), { about } = self.stylemedParts;
  let opening = null;
  if (!place) return;
  if (!about) {
    place.textContent = "There is nothing to play with here: no generator was there when these pages were built.";
  } else if (place.dataset.figure === "walk" && !about.directions.length) {
    place.textContent = "There is no walk here: no direction was there when these pages were built.";
  } else {
    starter(place, `Start the generator (${megabytes(about.bytes.runtime + about.bytes.model)})`, started);
  }
})();
