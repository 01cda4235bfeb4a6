// The blinded reader test: slices one at a time, real or generated; nothing is sent or kept.
"use strict";
(() => {
  const play = self.stylemedPlay, { el, Slice } = play;
  const SHOWN = 20;

  // 95 % interval of a share of k among n (Wilson 1927), of use also where k is 0 or n.
  function wilson(k, n, z = 1.959963984540054) {
    const middle = (k + (z * z) / 2) / (n + z * z);
    const half = (z / (n + z * z)) * Math.sqrt((k * (n - k)) / n + (z * z) / 4);
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  }

  // Two-sided exact binomial test of k among n against a chance of one half.
  function byChance(k, n) {
    const ways = [1]; // n over i
    for (let i = 1; i <= n; i++) ways.push((ways[i - 1] * (n - i + 1)) / i);
    const asRare = ways.filter((_, i) => Math.abs(i - n / 2) >= Math.abs(k - n / 2));
    return asRare.reduce((sum, count) => sum + count, 0) / 2 ** n;
  }

  // A coin for each place decides which kind is shown, so that counting does not help and a guess is right half the time.
  function draw(slices, random) {
    const piles = [slices.real.slice(), slices.generated.slice()];
    return Array.from({ length: SHOWN }, () => {
      const kind = random() < 0.5 ? 0 : 1, pile = piles[kind];
      return { row: pile.splice(Math.floor(random() * pile.length), 1)[0], real: kind === 0 };
    });
  }

  class Test {
    constructor(place, slices, pixels, random = Math.random) {
      Object.assign(this, { place, slices, pixels, random, shown: draw(slices, random), answers: [] });
      this.slice = new Slice(slices.size, 384);
      this.said = el("p", { role: "status", className: "play-said" });
      const button = (label, id, real) => el("button", { type: "button", id, textContent: label, onclick: () => this.answer(real) });
      this.row = el("div", { className: "play-row" }, button("Real (R)", "play-real", true), button("Generated (G)", "play-generated", false));
      this.element = el("div", { className: "play-test", tabIndex: -1 }, this.slice.element, this.row, this.said);
      this.element.onkeydown = (event) => {
        const key = event.key.toLowerCase();
        if (!(key === "r" || key === "g") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
        event.preventDefault();
        event.stopPropagation();
        this.answer(key === "r");
      };
      place.replaceChildren(this.element);
      this.element.focus({ preventScroll: true });
      this.next();
    }

    show(slice, row, said) {
      const pixels = this.slices.size ** 2;
      slice.draw((i) => this.pixels[row * pixels + i], said);
    }

    next() {
      const at = this.answers.length;
      this.show(this.slice, this.shown[at].row, `Slice ${at + 1} of ${SHOWN}`);
      this.said.textContent = `Slice ${at + 1} of ${SHOWN}: real or generated?`;
    }

    answer(real) {
      if (this.answers.length === SHOWN) return;
      this.answers.push(real);
      if (this.answers.length < SHOWN) this.next();
      else this.end();
    }

    end() {
      const right = this.answers.filter((answer, i) => answer === this.shown[i].real).length;
      const [low, high] = wilson(right, SHOWN), percent = (share) => Math.round(100 * share);
      const taken = this.shown.filter((one, i) => !one.real && this.answers[i]).length;
      const made = this.shown.filter((one) => !one.real).length;
      this.score = { right, shown: SHOWN, low, high, p: byChance(right, SHOWN) };
      const verdict = low > 0.5 ? "More than by guessing." : high < 0.5 ? "Less than by guessing: you saw a difference, and called it the wrong way." : "Guessing would do as well, as far as so few answers can tell.";
      const told = el("p", { role: "status", id: "play-score" },
        el("strong", { textContent: `${right} of ${SHOWN} right` }),
        ` (${percent(right / SHOWN)} %, 95 % interval ${percent(low)} to ${percent(high)} %). ${verdict} `,
        `By coin flips a score at least as far from half comes with a chance of ${this.score.p < 0.001 ? "less than 0.001" : this.score.p.toFixed(3)}. `,
        `Of ${made} generated slices you took ${taken} for real.`);
      const again = el("button", { type: "button", textContent: "Once more", onclick: () => new Test(this.place, this.slices, this.pixels, this.random) });
      const all = el("div", { className: "play-all" }, ...this.shown.map(({ row, real }, i) => {
        const small = new Slice(this.slices.size, 128), hit = this.answers[i] === real;
        const truth = real ? "real" : "generated";
        this.show(small, row, `Slice ${i + 1}, ${truth}, your answer was ${hit ? "right" : "wrong"}`);
        return el("div", { className: hit ? "" : "play-missed" }, small.element, `${hit ? "✓" : "✗"} ${truth}`);
      }));
      this.place.replaceChildren(told, again, all);
      again.focus({ preventScroll: true });
    }
  }

  Object.assign(play, { wilson, byChance });
  const place = document.getElementById("play-reader"), { about } = self.stylemedParts;
  if (!place) return;
  if (!about?.bytes.slices) {
    place.textContent = "There is no test here: no slices and no generator were there when these pages were built.";
    return;
  }
  play.starter(place, `Start the test (${play.megabytes(about.bytes.slices)})`, async () => {
    const slices = await play.load("slices");
    play.test = new Test(place, slices, await play.unpacked(slices.pixels));
  });
})();
