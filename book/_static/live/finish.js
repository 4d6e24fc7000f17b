// A drawing on 28 x 28 pixels that the model of the digits finishes: as a sketch (SDEdit), or as one half (inpainting).

import { call } from "./calls.js";
import { button, choice, colors, dontGlide, make, pills, progress, slider, spoken } from "./controls.js";
import { SIDE, pixels } from "./pixels.js";
import { anySeed } from "./random.js";

const HALVES = { left: "the left half", right: "the right half", top: "the upper half", bottom: "the lower half" };
const KNOWN = { left: (x) => x < 14, right: (x) => x >= 14, top: (x, y) => y < 14, bottom: (x, y) => y >= 14 };
const SKETCHES = {  // strokes through points (x, y)
  three: [[[8, 6], [19, 6], [12, 12], [20, 16], [17, 22], [8, 22]]],
  seven: [[[7, 7], [20, 7], [11, 22]]],
  calculator: [[[9, 5], [9, 14], [18, 14], [18, 5]], [[18, 14], [18, 23]]],
};

export default async function build(stage, options) {
  const chosen = { mode: "sketch", half: "left", strength: 0.7, label: -1, scale: 2, rounds: 3, seed: 3, ...options };
  const picture = new Float32Array(SIDE * SIDE).fill(-1);
  const kept = [];  // pictures before each stroke, for undo
  let job = null, made = null, cursor = [14, 14], penDown = false;

  const mask = () => (chosen.mode === "sketch" ? null
    : Uint8Array.from(picture, (_, i) => (KNOWN[chosen.half](i % SIDE, Math.floor(i / SIDE)) ? 1 : 0)));

  // ---- the sheet ----

  const sheet = pixels("a sheet of 28 by 28 pixels to draw on: arrow keys move the pen, space puts it down or lifts it", (context, side) => {
    const palette = colors(), unit = side / SIDE, known = mask();
    if (known) {  // hatched where the model is to draw
      context.save();
      context.beginPath();
      known.forEach((k, i) => { if (!k) context.rect(i % SIDE * unit, Math.floor(i / SIDE) * unit, unit + 0.5, unit + 0.5); });
      context.clip();
      context.fillStyle = palette.dark ? "#27313a" : "#e4eaef";
      context.fillRect(0, 0, side, side);
      context.strokeStyle = palette.line;
      context.globalAlpha = 0.8;
      context.beginPath();
      for (let v = -side; v < side; v += 10) { context.moveTo(v, side); context.lineTo(v + side, 0); }
      context.stroke();
      context.restore();
    }
    if (document.activeElement === sheet) {
      context.strokeStyle = palette.learned;
      context.lineWidth = penDown ? 3 : 1.5;
      context.strokeRect((cursor[0] - 1) * unit, (cursor[1] - 1) * unit, 3 * unit, 3 * unit);
    }
  });
  sheet.classList.add("live-pad");
  sheet.tabIndex = 0;
  sheet.setAttribute("role", "application");

  /** A soft round pen along a straight way, as a digit's stroke is. */
  function ink([x0, y0], [x1, y1], erase = false) {
    const n = Math.max(1, Math.ceil(4 * Math.hypot(x1 - x0, y1 - y0)));
    for (let s = 0; s <= n; s++) {
      const x = x0 + (x1 - x0) * s / n, y = y0 + (y1 - y0) * s / n;
      for (let j = Math.floor(y) - 2; j <= y + 2; j++) for (let i = Math.floor(x) - 2; i <= x + 2; i++) {
        if (i < 0 || j < 0 || i >= SIDE || j >= SIDE) continue;
        const depth = Math.min(1, Math.max(0, 2 - Math.hypot(i - x, j - y))), at = j * SIDE + i;
        picture[at] = erase ? Math.min(picture[at], 1 - 2 * depth) : Math.max(picture[at], 2 * depth - 1);
      }
    }
    sheet.show(picture);
  }

  const keep = () => { kept.push(picture.slice()); if (kept.length > 50) kept.shift(); };
  const put = (strokes) => {
    keep();
    picture.fill(-1);
    for (const stroke of strokes) for (let i = 1; i < stroke.length; i++) ink(stroke[i - 1], stroke[i]);
  };

  let pointer = null, from = null;
  const place = (event) => {
    const box = sheet.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * SIDE - 0.5, (event.clientY - box.top) / box.height * SIDE - 0.5];
  };
  sheet.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    keep();
    pointer = event.pointerId;
    sheet.setPointerCapture(pointer);
    from = place(event);
    ink(from, from);
  });
  sheet.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const to = place(event);
    ink(from, to);
    from = to;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    sheet.addEventListener(name, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null;
      run();
    });
  }
  dontGlide(sheet);
  sheet.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey || (!step && event.key !== " ")) return;
    event.preventDefault();
    if (step) {
      const before = cursor;
      cursor = cursor.map((v, i) => Math.min(SIDE - 1, Math.max(0, v + step[i] * (event.shiftKey ? 4 : 1))));
      if (penDown) ink(before, cursor);
    } else {
      penDown = !penDown;
      if (penDown) { keep(); ink(cursor, cursor); } else run();
    }
    state.say(`Pen ${penDown ? "down" : "up"} at column ${cursor[0] + 1}, row ${cursor[1] + 1}.`);
    sheet.redraw();
  });
  for (const name of ["focus", "blur"]) sheet.addEventListener(name, () => sheet.redraw());

  // ---- the model ----

  const result = pixels("what the model makes of it"), state = spoken(), bar = progress();
  async function run() {
    job?.cancel();
    if (chosen.mode === "sketch" && picture.every((v) => v < 0)) {
      result.show(null);
      state.say("Draw a digit with a mouse, a finger or the keys, or take a sketch: the model finishes it when you lift the pen.");
      return;
    }
    stage.setAttribute("aria-busy", "true");
    const asked = { picture, mask: mask(), strength: chosen.strength, seed: chosen.seed, label: chosen.label, scale: chosen.scale,
      steps: chosen.mode === "sketch" ? Math.max(6, Math.round(24 * chosen.strength)) : 20, rounds: chosen.rounds };
    const mine = job = call("edit", asked, {
      onProgress: bar.show,
      onState: ({ x, share }) => { bar.done(); result.show(made = x); result.setAttribute("aria-label", `the model at work, ${Math.round(100 * share)} per cent`); },
    });
    try {
      await mine;
      if (mine !== job) return;
      const what = chosen.label < 0 ? "any digit" : `a ${chosen.label}`;
      result.setAttribute("aria-label", `your drawing, finished by the model as ${what}`);
      state.say(chosen.mode === "sketch"
        ? `Noised to t = ${chosen.strength.toFixed(2)} and brought back as ${what}. Less noise keeps more of the sketch, more noise makes it more of a digit.`
        : `Known: ${HALVES[chosen.half]}. The rest is ${what}, each stretch of steps walked ${chosen.rounds} time${chosen.rounds === 1 ? "" : "s"}.`);
    } catch (error) {
      if (mine === job) state.say(`That did not work: ${error.message}. Check the connection and press “Again”.`);
    } finally {
      bar.done();
      if (mine === job) stage.removeAttribute("aria-busy");
    }
  }

  // ---- what is chosen ----

  const change = (name) => (value) => { chosen[name] = value; sync(); run(); };
  const later = (then) => { let timer; return (v) => { clearTimeout(timer); timer = setTimeout(then, 200, v); }; };
  const mode = pills("It is", [["sketch", "a sketch"], ["half", "half a digit"]], chosen.mode, change("mode"));
  const half = choice("Known", Object.entries(HALVES), chosen.half, change("half"));
  const strength = slider("Strength t*", { min: 0.2, max: 1, step: 0.05, value: chosen.strength, words: (v) => v.toFixed(2) }, later(change("strength")));
  const rounds = slider("Rounds", { min: 1, max: 6, step: 1, value: chosen.rounds }, later(change("rounds")));
  const label = choice("Class", [["-1", "any digit"], ...Array.from({ length: 10 }, (_, c) => [String(c), String(c)])], String(chosen.label), (v) => change("label")(+v));
  const scale = slider("Guidance", { min: 0, max: 8, step: 0.5, value: chosen.scale, words: (w) => `w = ${w}` }, later(change("scale")));
  const row = (...parts) => make("div", { className: "live-row" }, ...parts);
  const sketches = row(...Object.entries({ three: "A three", seven: "A seven", calculator: "A pocket calculator’s four" })
    .map(([name, text]) => button(text, () => { put(SKETCHES[name]); run(); })));
  const undo = button("Undo", () => { if (kept.length) picture.set(kept.pop()); sheet.show(picture); run(); });
  const clear = button("Clear", () => { keep(); picture.fill(-1); sheet.show(picture); run(); });
  const again = button("Again", () => { chosen.seed = anySeed(); run(); }, "live-main");

  function sync() {
    half.hidden = rounds.hidden = chosen.mode === "sketch";
    strength.hidden = chosen.mode !== "sketch";
    scale.hidden = chosen.label < 0;
    sheet.redraw();
  }

  stage.append(
    make("div", { className: "live-view" }, make("div", { className: "live-panels live-pair" },
      make("figure", {}, sheet, make("figcaption", { textContent: "draw here" })),
      make("figure", {}, result, make("figcaption", { textContent: "finished by the model" })))),
    make("div", { className: "live-controls" }, mode, strength, half, rounds, label, scale, sketches, row(undo, clear, again)),
    bar, ...state.parts,
  );
  put(SKETCHES[options.sketch ?? "three"]);
  kept.length = 0;
  sync();
  stage.addEventListener("shown", run);
  stage.live = { chosen, picture, run, get result() { return made; } };
}
