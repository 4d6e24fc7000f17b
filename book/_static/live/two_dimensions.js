// Points in the plane flow from noise to data: with the exact denoiser, a trained network's, or your own drawing's.

import { call } from "./calls.js";
import { button, canvas, choice, colors, dontGlide, make, pills, progress, reducedMotion, slider, spoken, timeline } from "./controls.js";
import { anySeed } from "./random.js";
import { SAMPLERS } from "./samplers.js";
import { SCHEDULES } from "./schedules.js";
import { TOYS } from "./toys.js";

const LIMIT = 3, GRID = 96, ARROWS = 19, TRAILS = 140, STEPS = [1, 2, 3, 5, 10, 20, 50, 100, 250];
const DRAWN = "drawn", MOST = 400, SPACING = 0.05;  // of a drawing: its means, and how far apart they are
const HEART = Array.from({ length: 200 }, (_, i) => 2 * Math.PI * i / 199)
  .map((a) => [0.12 * 16 * Math.sin(a) ** 3, 0.12 * (13 * Math.cos(a) - 5 * Math.cos(2 * a) - 2 * Math.cos(3 * a) - Math.cos(4 * a))]);
const heart = () => HEART.reduce(extended, []);
const arrowPoints = Float32Array.from({ length: 2 * ARROWS ** 2 }, (_, i) =>
  LIMIT * 0.94 * (2 * (i % 2 ? Math.floor((i >> 1) / ARROWS) : (i >> 1) % ARROWS) / (ARROWS - 1) - 1));

export default async function build(stage, options) {
  const simple = options.simple ?? false;
  const chosen = {
    data: options.data ?? "moons", schedule: options.schedule ?? "linear", sampler: options.sampler ?? "ddim",
    steps: options.steps ?? 50, which: options.which ?? "exact", part: options.part ?? null, scale: options.scale ?? 1,
    arrows: options.arrows ?? false, smooth: options.smooth ?? 0.12, seed: 1,
  };
  const strokes = options.heart ? [heart()] : [];  // of the drawing: each a list of [x, y]
  const panels = ["exact", "learned"].map((which) => new Panel(which, () => chosen));
  let runs = 0, pending = [];

  // ---- what is computed ----

  const drawing = () => chosen.data === DRAWN;
  const source = () => (drawing() ? { strokes: strokes.map(means), std: chosen.smooth } : { name: chosen.data });
  const means = (stroke) => {
    const every = Math.max(1, Math.ceil(strokes.reduce((n, s) => n + s.length, 0) / MOST));
    return stroke.filter((_, i) => i % every === 0).flat();
  };
  const shown = () => panels.filter(({ which }) => chosen.which === "both" || chosen.which === which);
  const request = (which) => ({
    source: source(), part: chosen.part, scale: chosen.scale, schedule: chosen.schedule, sampler: chosen.sampler,
    steps: chosen.steps, seed: chosen.seed, n: simple ? 700 : 500, which,
  });

  async function run({ play = !reducedMotion() } = {}) {
    const mine = ++runs;
    pending.forEach((job) => job.cancel());
    pending = [];
    if (drawing() && !strokes.length) {
      panels[0].clear();
      time.stop();
      state.say("Draw something: a stroke with a mouse, a finger or the keys. It becomes a data set at once.");
      return;
    }
    stage.setAttribute("aria-busy", "true");
    try {
      pending = shown().map((panel) => call("flow", request(panel.which), { onProgress: bar.show }));
      const results = await Promise.all(pending);
      if (mine !== runs) return;
      results.forEach((result, i) => shown()[i].take(result));
      time.reach(results[0].times.length - 1);
      if (play) { time.move(0); time.play(); } else { time.stop(); time.move(results[0].times.length - 1); }
      announce();
    } catch (error) {
      if (mine === runs) state.say(`That did not work: ${error.message}. Try again, or reload the page.`);
    } finally {
      bar.done();
      if (mine === runs) stage.removeAttribute("aria-busy");
    }
  }

  function announce() {
    const what = drawing() ? "your drawing" : TOYS[chosen.data].title;
    const asked = chosen.part === null ? "" : `, guided towards ${partName(chosen.part)} at scale ${chosen.scale}`;
    const from = { exact: "the exact denoiser", learned: "the network", both: "the exact denoiser and the network" }[chosen.which];
    const steps = shown()[0].times?.length - 1;
    const early = chosen.schedule === "tutorial" ? " This schedule ends too early: its last level still holds data." : "";
    state.say(`${shown()[0].n} points flow from noise to ${what}${asked}, with ${from}: ` +
      `${SAMPLERS[chosen.sampler][0]}, ${steps} step${steps === 1 ? "" : "s"}, ${SCHEDULES[chosen.schedule][0]} schedule.${early}`);
    shown().forEach((panel) => panel.describe(what));
  }

  const partName = (part) => (drawing() ? `stroke ${part + 1}` : TOYS[chosen.data].classes[part]);
  const partEntries = () => {
    const n = drawing() ? strokes.length : TOYS[chosen.data].classes.length;
    return [["", "all of it"], ...Array.from({ length: n > 1 ? n : 0 }, (_, part) => [String(part), partName(part)])];
  };

  // ---- what is chosen ----

  const change = (name) => (value) => { chosen[name] = value; sync(); run(); };
  const dataEntries = [...Object.entries(TOYS).map(([name, { title }]) => [name, title]), [DRAWN, "draw your own"]];
  const data = choice("Data", dataEntries, chosen.data, (value) => {
    if (value === DRAWN) chosen.which = "exact";
    Object.assign(chosen, { data: value, part: null });
    sync();
    run();
    if (drawing()) panels[0].canvas.focus({ preventScroll: true });
  });
  const which = pills("Denoiser", [["exact", "exact"], ["learned", "learned"], ["both", "both"]], chosen.which, change("which"));
  const scheduleChoice = choice("Schedule", Object.entries(SCHEDULES).map(([v, [text]]) => [v, text]), chosen.schedule, change("schedule"));
  const sampler = choice("Sampler", Object.entries(SAMPLERS).map(([v, [text]]) => [v, text]), chosen.sampler, change("sampler"));
  const steps = slider("Steps", { min: 0, max: STEPS.length - 1, step: 1, value: STEPS.indexOf(chosen.steps),
    words: (i) => String(STEPS[i]) }, later((i) => change("steps")(STEPS[i])));
  const part = choice("Class", partEntries(), chosen.part === null ? "" : String(chosen.part),
    (value) => change("part")(value === "" ? null : +value));
  const scale = slider("Guidance", { min: 0, max: 8, step: 0.5, value: chosen.scale, words: (w) => `w = ${w}` },
    later((w) => change("scale")(w)));
  const smooth = slider("Smoothing", { min: 0.03, max: 0.4, step: 0.01, value: chosen.smooth, words: (s) => s.toFixed(2) },
    later((s) => change("smooth")(s)));
  const arrows = make("input", { type: "checkbox", checked: chosen.arrows,
    onchange: () => { chosen.arrows = arrows.checked; panels.forEach((panel) => panel.look(time.position)); } });
  const arrowField = make("label", { className: "live-check" }, arrows, make("span", { textContent: "arrows of the score" }));
  const noise = button("New noise", () => { chosen.seed = anySeed(); run({ play: true }); });
  const undo = button("Undo", () => { strokes.pop(); drawn(); });
  const clear = button("Clear", () => { strokes.length = 0; drawn(); panels[0].canvas.focus({ preventScroll: true }); });
  const example = button("A heart", () => { strokes.push(heart()); drawn(); });
  const pad = make("div", { className: "live-row" }, example, undo, clear);

  function sync() {
    const learned = !drawing();
    which.hidden = simple || !learned;
    which.set(chosen.which);
    part.set(partEntries(), chosen.part === null ? "" : String(chosen.part));
    part.hidden = simple || partEntries().length < 2;
    scale.hidden = simple || chosen.part === null;
    smooth.hidden = pad.hidden = !drawing();
    panels.forEach((panel) => {
      panel.element.hidden = !shown().includes(panel);
      panel.drawable(drawing() && panel.which === "exact");
      panel.captioned(chosen.which === "both" || chosen.which === "learned");
    });
  }

  // ---- drawing ----

  const drawn = () => {
    if (chosen.part !== null && chosen.part >= strokes.length) chosen.part = null;
    sync();
    run();
  };
  panels[0].onStroke(strokes, drawn, (text) => state.say(text));

  // ---- the parts on the page ----

  const state = spoken(), bar = progress();
  const time = timeline((position) => shown().forEach((panel) => panel.look(position)), {
    words: (position) => `t = ${(shown()[0].timeAt(position) ?? 1).toFixed(2)}`,
  });
  const controls = simple
    ? [data, smooth, pad, make("div", { className: "live-row" }, noise)]
    : [data, which, part, scale, scheduleChoice, sampler, steps, smooth, pad, make("div", { className: "live-row" }, arrowField, noise)];
  stage.append(
    make("div", { className: "live-view" }, make("div", { className: "live-panels" }, ...panels.map((panel) => panel.element)), time),
    make("div", { className: "live-controls" }, ...controls),
    bar, ...state.parts,
  );
  sync();
  stage.addEventListener("shown", () => run());
  stage.live = { chosen, panels, time, run, strokes };  // for tests, and for the curious
}

/** A stroke with the way to one more place added, in even steps: a fast hand draws as densely as a slow one. */
function extended(stroke, to) {
  if (!stroke.length) return stroke.push(to), stroke;
  for (;;) {
    const from = stroke.at(-1), far = Math.hypot(to[0] - from[0], to[1] - from[1]);
    if (far < SPACING) return stroke;
    stroke.push(from.map((v, i) => v + SPACING * (to[i] - v) / far));
  }
}

/** Calls after the last of several in a row. */
function later(run) {
  let timer;
  return (value) => { clearTimeout(timer); timer = setTimeout(run, 120, value); };
}

/** A square of the plane with its points, their trails, and behind them density and score. */
class Panel {
  constructor(which, chosen) {
    Object.assign(this, { which, chosen, states: null, times: null, position: 0, field: null, asking: false, strokes: [], pen: null });
    this.canvas = canvas((context, side) => this.draw(context, side), { className: "live-plane", "aria-label": "points in the plane" });
    this.caption = make("figcaption", { textContent: which === "exact" ? "exact denoiser" : "trained network" });
    this.element = make("figure", {}, this.canvas, this.caption);
  }

  get n() { return this.states ? this.states.length / this.times.length / 2 : 0; }

  clear() {
    Object.assign(this, { states: null, times: null, field: null });
    this.canvas.redraw();
  }

  take({ states, times }) {
    Object.assign(this, { states, times, field: null });
    this.request = structuredClone(this.currentRequest());
  }

  currentRequest() {
    const { data, schedule, part, scale, smooth } = this.chosen();
    const source = data === DRAWN ? { strokes: this.strokes.map((s) => s.flat()), std: smooth } : { name: data };
    return { source, part, scale, schedule, which: this.which };
  }

  timeAt(position) {
    if (!this.times) return null;
    const low = Math.min(Math.floor(position), this.times.length - 1), high = Math.min(low + 1, this.times.length - 1);
    return this.times[low] + (position - low) * (this.times[high] - this.times[low]);
  }

  /** Coordinate i of the points at a position between two states: a step is a straight line. */
  at(position) {
    const size = 2 * this.n, low = Math.min(Math.floor(position), this.times.length - 1), rest = position - low;
    const high = Math.min(low + 1, this.times.length - 1), { states } = this;
    return (i) => states[low * size + i] + rest * (states[high * size + i] - states[low * size + i]);
  }

  describe(what) {
    this.canvas.setAttribute("aria-label", this.which === "exact"
      ? `${this.n} points on their way from noise to ${what}, over the exact density at each time`
      : `${this.n} points that a network takes from noise to ${what}, over the density of the points themselves`);
  }

  captioned(on) { this.caption.hidden = !on; }

  look(position) {
    this.position = position;
    this.canvas.redraw();
    this.ask();
  }

  /** Density and score for where the time line stands; while one is on its way, only the last wish is kept. */
  async ask() {
    if (!this.states) return;
    if (this.asking) { this.again = true; return; }
    this.asking = true;
    const { states } = this, at = this.at(this.position), wanted = this.chosen().arrows;
    try {
      const field = await call("field", {
        ...this.request, t: this.timeAt(this.position), grid: GRID, points: wanted ? arrowPoints : null,
        particles: this.which === "learned" ? Float32Array.from({ length: 2 * this.n }, (_, i) => at(i)) : null,
      });
      if (states === this.states) this.field = field;
    } catch { /* the next request will show it */ }
    this.asking = false;
    this.canvas.redraw();
    if (this.again) { this.again = false; this.ask(); }
  }

  draw(context, side) {
    const palette = colors(), ink = palette[this.which], to = (v) => (v / LIMIT + 1) / 2 * side;
    const X = (x) => to(x), Y = (y) => side - to(y);
    context.clearRect(0, 0, side, side);
    context.fillStyle = `rgb(${palette.shade[0]})`;
    context.fillRect(0, 0, side, side);
    if (this.field) this.drawDensity(context, side, palette);
    if (this.field?.score && this.chosen().arrows) this.drawArrows(context, side, X, Y, this.which === "exact" ? palette.text : palette.learned);
    if (this.strokes.length || this.pen) this.drawStrokes(context, X, Y, palette);
    if (!this.states) return this.hint(context, side, palette);
    this.drawTrails(context, X, Y, ink, palette);
    const at = this.at(this.position), radius = Math.max(1.4, side / 230);
    context.fillStyle = ink;
    context.globalAlpha = 0.8;
    context.beginPath();
    for (let i = 0; i < 2 * this.n; i += 2) {
      const x = X(at(i)), y = Y(at(i + 1));
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.fill();
    context.globalAlpha = 1;
    if (this.cursor && document.activeElement === this.canvas) this.drawCursor(context, X, Y, palette);
  }

  drawDensity(context, side, { shade }) {
    const image = new ImageData(GRID, GRID);
    this.field.density.forEach((v, i) => {
      const depth = 2 * Math.sqrt(v), low = shade[depth < 1 ? 0 : 1], high = shade[depth < 1 ? 1 : 2], rest = depth < 1 ? depth : Math.min(depth - 1, 1);
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = low[c] + rest * (high[c] - low[c]);
      image.data[4 * i + 3] = 255;
    });
    this.sheet ??= new OffscreenCanvas(GRID, GRID);
    this.sheet.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = true;
    context.drawImage(this.sheet, 0, 0, side, side);
  }

  drawArrows(context, side, X, Y, color) {
    const { score } = this.field, lengths = [];
    for (let i = 0; i < score.length; i += 2) lengths.push(Math.hypot(score[i], score[i + 1]));
    const middle = [...lengths].sort((a, b) => a - b)[lengths.length >> 1], spacing = 2 * LIMIT / ARROWS;
    context.strokeStyle = context.fillStyle = color;
    context.globalAlpha = 0.65;
    context.lineWidth = 1.1;
    context.beginPath();
    lengths.forEach((length, j) => {  // at most one spacing long: compare directions
      const factor = spacing / (length + middle / 2), x = arrowPoints[2 * j], y = arrowPoints[2 * j + 1];
      const [x1, y1] = [X(x + factor * score[2 * j]), Y(y + factor * score[2 * j + 1])], [x0, y0] = [X(x), Y(y)];
      const angle = Math.atan2(y1 - y0, x1 - x0), head = Math.min(4, Math.hypot(x1 - x0, y1 - y0) / 2);
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
      for (const turn of [2.6, -2.6]) {
        context.moveTo(x1, y1);
        context.lineTo(x1 + head * Math.cos(angle + turn), y1 + head * Math.sin(angle + turn));
      }
    });
    context.stroke();
    context.globalAlpha = 1;
  }

  drawTrails(context, X, Y, ink, palette) {
    const size = 2 * this.n, last = Math.min(Math.floor(this.position), this.times.length - 1), at = this.at(this.position);
    const every = Math.max(1, Math.floor((this.times.length - 1) / 60));
    context.strokeStyle = ink;
    context.globalAlpha = palette.dark ? 0.4 : 0.26;
    context.lineWidth = 1;
    context.beginPath();
    for (let i = 0; i < 2 * Math.min(TRAILS, this.n); i += 2) {
      context.moveTo(X(this.states[i]), Y(this.states[i + 1]));
      for (let k = every; k <= last; k += every) context.lineTo(X(this.states[k * size + i]), Y(this.states[k * size + i + 1]));
      context.lineTo(X(at(i)), Y(at(i + 1)));
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  // ---- drawing a data set ----

  drawable(on) {
    const { canvas: plane } = this;
    plane.classList.toggle("live-pad", on);
    plane.setAttribute("role", on ? "application" : "img");
    if (on) {
      plane.tabIndex = 0;
      plane.setAttribute("aria-label", "a sheet to draw on: arrow keys move the pen, space puts it down or lifts it");
    } else plane.removeAttribute("tabindex");
    if (!on && this.strokes.length) this.hidden = true;
    this.pad = on;
  }

  onStroke(strokes, drawn, say) {
    this.strokes = strokes;
    this.cursor = [0, 0];
    let pointer = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width * 2 - 1) * LIMIT, (1 - (event.clientY - box.top) / box.height * 2) * LIMIT];
    };
    const add = (to) => extended(this.pen, to);
    const finish = () => {
      if (this.pen?.length) strokes.push(this.pen);
      this.pen = null;
      drawn();
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.pad || event.button) return;
      if (this.pen) finish();
      pointer = event.pointerId;
      this.canvas.setPointerCapture(pointer);
      this.clear();
      this.pen = [];
      add(place(event));
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pointer) return;
      add(place(event));
      this.canvas.redraw();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, (event) => {
        if (event.pointerId !== pointer) return;
        pointer = null;
        finish();
      });
    }
    dontGlide(this.canvas, () => this.pad);
    this.canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!this.pad || event.altKey || event.ctrlKey || event.metaKey || (!step && event.key !== " ")) return;
      event.preventDefault();
      if (step) {
        const size = event.shiftKey ? 0.5 : 0.1;
        this.cursor = this.cursor.map((v, i) => Math.min(LIMIT, Math.max(-LIMIT, v + size * step[i])));
        if (this.pen) add([...this.cursor]);
      } else if (this.pen) finish();
      else { this.clear(); this.pen = []; add([...this.cursor]); }
      say(`Pen ${this.pen ? "down" : "up"} at ${this.cursor.map((v) => v.toFixed(1)).join(", ")}.`);
      this.canvas.redraw();
    });
    for (const name of ["focus", "blur"]) this.canvas.addEventListener(name, () => this.canvas.redraw());
  }

  drawStrokes(context, X, Y, palette) {
    if (!this.pad) return;
    context.fillStyle = palette.text;
    context.globalAlpha = this.states ? 0.35 : 0.9;
    for (const stroke of [...this.strokes, ...(this.pen ? [this.pen] : [])]) {
      for (const [x, y] of stroke) context.fillRect(X(x) - 1.5, Y(y) - 1.5, 3, 3);
    }
    context.globalAlpha = 1;
    if (!this.states && this.cursor && document.activeElement === this.canvas) this.drawCursor(context, X, Y, palette);
  }

  drawCursor(context, X, Y, { text }) {
    if (!this.pad) return;
    const [x, y] = [X(this.cursor[0]), Y(this.cursor[1])];
    context.strokeStyle = text;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, y, 7, 0, 2 * Math.PI);
    for (const [a, b] of [[1, 0], [0, 1]]) {
      context.moveTo(x - 12 * a, y - 12 * b);
      context.lineTo(x + 12 * a, y + 12 * b);
    }
    context.stroke();
  }

  hint(context, side, { text }) {
    if (!this.pad || this.strokes.length || this.pen) return;
    context.fillStyle = text;
    context.globalAlpha = 0.75;
    context.font = "600 1.1rem system-ui, sans-serif";
    context.textAlign = "center";
    context.fillText("Draw here", side / 2, side / 2 - 30);
    context.globalAlpha = 1;
  }
}
