// A slice of one's own: from a file to the square the encoder knows, its styles, and its reconstruction. Nothing leaves the page.
"use strict";
(() => {
  const play = self.stylemedPlay, { el, Slice, megabytes } = play;
  const AIR = -1024, LOOKED_AT = 24, LARGEST_SIDE = 4096;
  const DIFFERENCE = [[181, 224, 255], [45, 143, 213], [0, 0, 0], [213, 112, 30], [255, 217, 163]]; // of stylemed/display/sheet.py

  function difference(change) { // -1 … 1: blue below, black at zero, orange above
    const at = Math.min(3.9999, Math.max(0, 2 * (change + 1))), i = Math.floor(at);
    return DIFFERENCE[i].map((value, k) => value + (at - i) * (DIFFERENCE[i + 1][k] - value));
  }

  // An 8-bit grey PNG -> one slice of grey levels.
  async function readPng(bytes, name) {
    const view = new DataView(bytes.buffer), [width, height] = [view.getUint32(16), view.getUint32(20)];
    if (bytes[24] > 8) throw new Error(`${name} holds ${bytes[24]} bits a pixel; save it with 8`);
    if (Math.max(width, height) > LARGEST_SIDE) throw new Error(`${name} is larger than ${LARGEST_SIDE} pixels; save it smaller`);
    const settings = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }), settings).catch(() => {
      throw new Error(`${name} is damaged or cut short; copy it again`);
    });
    const context = el("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, width, height), values = new Float32Array(width * height);
    for (let i = 0; i < values.length; i++) {
      const [red, green, blue, alpha] = data.subarray(4 * i, 4 * i + 4);
      if (red !== green || red !== blue || alpha !== 255) throw new Error(`${name} is in colour or see-through; save it in grey`);
      values[i] = red;
    }
    return grey(values, width, height);
  }

  const grey = (values, width, height) => ({ width, height, count: 1, spacing: [1, 1], slice: () => values, grey: true });

  async function read(file) {
    const bytes = new Uint8Array(await file.arrayBuffer()), png = [137, 80, 78, 71, 13, 10, 26, 10].every((value, i) => bytes[i] === value);
    return png && bytes.length > 32 ? readPng(bytes, file.name) : play.readNifti(bytes, file.name);
  }

  class Own {
    constructor(place, encoder, slices) {
      Object.assign(this, { encoder, slices, player: play.player, generator: play.player.generator });
      this.windows = Object.entries(encoder.windows);
      const size = encoder.size;
      this.views = { seen: new Slice(size, 192), rebuilt: new Slice(size, 192), error: new Slice(size, 192) };
      this.inputs = {};
      this.last = {}; // the numbers behind the slices
      place.replaceChildren(this.chooser(), this.stage());
    }

    chooser() {
      this.said = el("p", { className: "play-said", role: "status", textContent: "Choose a PNG or a NIfTI file: it is read on this page and goes nowhere." });
      const input = el("input", { type: "file", id: "play-file", accept: ".png,.nii,.gz", onchange: () => input.files[0] && this.take(() => read(input.files[0]), input.files[0].name) });
      const row = [el("label", { className: "play-file" }, "Your file ", input)];
      if (this.slices) {
        row.push(el("button", { type: "button", id: "play-sample", textContent: "A slice of this book", onclick: () => this.take(() => this.sample(), "A slice of this book") }));
      }
      return el("div", {}, el("div", { className: "play-row" }, ...row), this.said);
    }

    async sample() {
      this.pixels ??= await play.unpacked(this.slices.pixels);
      const { real, size } = this.slices, row = real[Math.floor(Math.random() * real.length)];
      return grey(Float32Array.from(this.pixels.subarray(row * size * size, (row + 1) * size * size)), size, size);
    }

    stage() {
      this.canvas = el("canvas", { role: "img" });
      this.canvas.setAttribute("aria-label", "The slice as it was given, with the square the encoder sees");
      this.box = el("div", { className: "play-square" });
      const mark = (letter) => el("span", { textContent: letter, ariaHidden: "true" });
      this.picture = el("div", { className: "play-slice play-picture", onclick: (event) => this.centre(event) }, this.canvas, mark("R"), mark("L"), this.box);
      const look = (name, title) => el("div", {}, this.views[name].element, title);
      const find = el("button", { type: "button", id: "play-find", textContent: "Find the body", onclick: () => this.find() });
      const use = (name) => el("button", { type: "button", id: `play-own-${name}`, textContent: `Use as ${name.toUpperCase()}`, onclick: () => this.use(name) });
      this.error = el("p", { className: "play-said", id: "play-error" });
      this.element = el("div", { className: "play-stage play-own", hidden: true },
        el("div", { className: "play-result" }, this.picture),
        el("div", { className: "play-controls" }, ...this.sliders(), el("div", { className: "play-row" }, find)),
        el("div", { className: "play-wide" },
          el("div", { className: "play-three" }, look("seen", "What the encoder sees"), look("rebuilt", "Reconstruction"), look("error", "Error: blue too dark, orange too bright")),
          this.error, el("div", { className: "play-row" }, use("a"), use("b"))));
      return this.element;
    }

    sliders() {
      const slider = (id, label, changed) => {
        const input = el("input", { type: "range", id: `play-${id}`, step: "any" }), output = el("output", {});
        output.htmlFor = input.id;
        input.oninput = () => (changed(Number(input.value)), this.show());
        const element = el("div", { className: "play-slider" }, el("label", { htmlFor: input.id, textContent: label }), input, output);
        this.inputs[id] = { input, element, set: (value, told) => ((input.value = value), (output.textContent = told), input.setAttribute("aria-valuetext", told)) };
        return element;
      };
      const names = this.windows.map(([name, [low, high]]) => el("option", { value: name, textContent: `${name}, ${low} to ${high}${name === "CT" ? " HU" : ""}`.replace("-", "−") }));
      const select = el("select", { id: "play-window", onchange: () => ((this.modality = select.value), this.find()) }, ...names);
      this.inputs.window = { element: el("label", {}, "Window ", select) };
      this.modality = this.windows[0]?.[0];
      return [
        slider("z", "Slice", (value) => (this.z = value)), this.inputs.window.element,
        slider("x", "Square: across", (value) => (this.square.left = value - this.square.side / 2)),
        slider("y", "Square: down", (value) => (this.square.top = value - this.square.side / 2)),
        slider("side", "Square: side", (value) => this.resize(value)),
      ];
    }

    // Read what `reader` gives; one sentence where that fails.
    async take(reader, name) {
      this.said.textContent = "Reading …";
      try {
        const volume = await reader();
        if (!volume.grey && !this.windows.length) throw new Error("this model does not say which intensities it knows; give it a PNG");
        Object.assign(this, { volume, z: Math.floor(volume.count / 2), before: null });
        this.find();
        this.said.textContent = `${name}: ${volume.width} × ${volume.height} pixels${volume.count > 1 ? `, ${volume.count} slices` : ""}`;
      } catch (error) {
        this.said.textContent = `${error.message}.`;
        return;
      }
      this.element.hidden = false;
      const { width, height, spacing, count } = this.volume, [y, x] = [height * spacing[0], width * spacing[1]];
      Object.assign(this.canvas, { width, height });
      this.picture.style.aspectRatio = `${x} / ${y}`;
      const ranges = { z: [0, count - 1, 1], x: [0, x, x / 200], y: [0, y, y / 200], side: [Math.max(x, y) / 8, Math.max(x, y), Math.max(x, y) / 200] };
      for (const [id, [min, max, step]] of Object.entries(ranges)) Object.assign(this.inputs[id].input, { min, max, step });
      this.inputs.z.element.hidden = count === 1;
      this.inputs.window.element.hidden = this.volume.grey || this.windows.length < 2;
      this.fresh = true;
      this.show();
    }

    get window() { // [black, white] in the picture's values
      return this.volume.grey ? [0, 255] : this.encoder.windows[this.modality];
    }

    // Where the model expects a body: around it. A PNG that has the model's side is a frame already.
    find() {
      const { width, height, spacing, count, slice } = this.volume;
      const framed = this.volume.grey && width === height && width === this.encoder.size;
      const looked = [...new Set(Array.from({ length: LOOKED_AT }, (_, i) => Math.floor(((i + 0.5) / LOOKED_AT) * count)))];
      const [low, high] = this.windows[0]?.[1] ?? [-100, 250]; // of a PNG, a guess
      const perHu = this.volume.grey ? 255 / (high - low) : this.modality === "CT" ? 1 : null;
      const body = this.encoder.frame === "body" && !framed ? play.bodySquare(looked.map(slice), width, height, spacing, perHu) : null;
      this.square = body ?? play.wholeSquare(width, height, spacing);
      if (!this.element.hidden) this.show();
    }

    resize(side) {
      const { top, left, side: before } = this.square, more = (side - before) / 2;
      this.square = { top: top - more, left: left - more, side };
    }

    centre(event) {
      const { x, y, width, height } = this.picture.getBoundingClientRect(), { square, volume } = this;
      square.left = ((event.clientX - x) / width) * volume.width * volume.spacing[1] - square.side / 2;
      square.top = ((event.clientY - y) / height) * volume.height * volume.spacing[0] - square.side / 2;
      this.show();
    }

    use(name) {
      if (this.player.codes.has(null)) this.player.set({ [name]: null });
    }

    // Make the page say what is set, and the slices follow as fast as they are made.
    show() {
      const { square, z, inputs, volume } = this, unit = volume.grey ? "px" : "mm", told = (value) => `${value.toFixed(0)} ${unit}`;
      inputs.z.set(z, `${z + 1} of ${volume.count}`);
      const [x, y] = [square.left + square.side / 2, square.top + square.side / 2];
      inputs.x.set(x, told(x));
      inputs.y.set(y, told(y));
      inputs.side.set(square.side, told(square.side));
      const [down, across] = [volume.height * volume.spacing[0], volume.width * volume.spacing[1]], percent = (part, of) => `${(100 * part) / of}%`;
      Object.assign(this.box.style, { left: percent(square.left, across), top: percent(square.top, down), width: percent(square.side, across), height: percent(square.side, down) });
      this.wanted = true;
      this.settled = this.running ??= this.renew().finally(() => (this.running = null));
    }

    async renew() {
      while (this.wanted) {
        this.wanted = false;
        const { volume, z, square, encoder, generator } = this, { width, height, spacing } = volume, [low, high] = this.window;
        try {
          const values = volume.slice(z), key = JSON.stringify([z, low, high]);
          if (this.before !== key) play.paint(this.canvas, (i) => (255 * (values[i] - low)) / (high - low));
          this.before = key;
          const picture = { values, width, height, spacing, fill: volume.grey ? 0 : AIR };
          const whole = volume.grey ? (value) => value : play.rint; // intensities are whole numbers, as in a store
          const seen = play.resample(picture, square, encoder.size).map((value) => Math.min(1, Math.max(-1, (2 * (whole(value) - low)) / (high - low) - 1)));
          const styles = await encoder.encode(seen), rebuilt = await generator.synthesize(styles, generator.stored);
          Object.assign(this.last, { seen, styles, rebuilt });
          this.draw();
          this.player.own(styles);
          if (this.fresh) this.player.set({ a: null, psi: 1, levels: [], steps: this.player.state.steps.map(() => 0) });
          this.fresh = false;
        } catch (error) {
          this.said.textContent = `${error.message}.`;
        }
        await new Promise((resolve) => setTimeout(resolve)); // let the page paint
      }
    }

    draw() {
      const { seen, rebuilt } = this.last, apart = seen.map((value, i) => Math.min(1, Math.max(-1, rebuilt[i])) - value);
      this.views.seen.draw((i) => (seen[i] + 1) * 127.5, "What the encoder sees");
      this.views.rebuilt.draw((i) => (rebuilt[i] + 1) * 127.5, "Its reconstruction");
      this.views.error.draw((i) => difference(apart[i]), "Reconstruction less slice");
      const mean = apart.reduce((sum, value) => sum + Math.abs(value), 0) / apart.length, [low, high] = this.window;
      const inHu = !this.volume.grey && this.modality === "CT" ? `, ${((mean * (high - low)) / 2).toFixed(0)} HU` : "";
      this.mean = mean;
      this.error.textContent = `Mean error ${(50 * mean).toFixed(1)} % of the way from black to white${inHu}.`;
    }
  }

  const place = document.getElementById("play-own"), { about } = self.stylemedParts;
  if (!place) return;
  if (!about?.bytes.encoder) {
    place.textContent = "There is no encoder here: none was there when these pages were built.";
    return;
  }
  const bytes = (names) => names.reduce((sum, name) => sum + (about.bytes[name] ?? 0), 0);
  const label = () => (play.player ? `Start the encoder (${megabytes(bytes(["encoder", "slices"]))})`
    : `Start generator and encoder (${megabytes(bytes(["runtime", "model", "encoder", "slices"]))})`);
  play.starter(place, label(), async (begun) => {
    await play.started(begun);
    const slices = about.bytes.slices ? await play.load("slices") : null;
    play.own = new Own(place, await play.Encoder.open(play.player.generator), slices);
  });
  document.addEventListener("play-started", () => {
    const button = place.querySelector(".play-start");
    if (button) button.textContent = label();
  });
})();
