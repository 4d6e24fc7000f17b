// A digit from noise, with a class and a guidance scale: what there is, and what the network guesses, at every step.

import { call } from "./calls.js";
import { button, choice, make, pills, progress, slider, spoken, timeline } from "./controls.js";
import { SIDE, pixels } from "./pixels.js";
import { anySeed } from "./random.js";
import { SAMPLERS } from "./samplers.js";

const ANY = -1, THUMBNAILS = 9;
const CLASSES = [...Array.from({ length: 10 }, (_, digit) => [String(digit), String(digit)]), [String(ANY), "any"]];

export default async function build(stage, options, figure) {
  const chosen = { class: 3, scale: 2, steps: 20, sampler: "dpmpp_2m", seed: 7, ...options, ...fromAddress() };
  let states = [], job = null;

  const noisy = pixels("the picture, pure noise"), guess = pixels("the network's guess of the digit");
  const strip = make("div", { className: "live-strip", role: "group", "aria-label": "the guesses along the way" });
  const state = spoken(), bar = progress();
  const time = timeline(look, { words: (p) => `t = ${(states[Math.round(p)]?.t ?? 1).toFixed(2)}`, seconds: 2.5 });

  function look(position) {
    const at = states[Math.round(position)];
    if (!at) return;
    noisy.show(at.x);
    guess.show(at.x0);
    noisy.setAttribute("aria-label", `the picture at t = ${at.t.toFixed(2)}: ${at.t === 0 ? "a digit" : "a digit under noise"}`);
    guess.setAttribute("aria-label", `the network's guess of the digit at t = ${at.t.toFixed(2)}`);
    const nearest = [...strip.children].findLast((b) => +b.dataset.at <= Math.round(position));
    for (const b of strip.children) b.toggleAttribute("aria-current", false);
    nearest?.setAttribute("aria-current", "true");
  }

  async function run() {
    job?.cancel();
    states = [];
    strip.replaceChildren();
    time.stop();
    time.reach(chosen.steps);
    stage.setAttribute("aria-busy", "true");
    state.say("Drawing …", "");
    const mine = job = call("digit",
      { seed: chosen.seed, label: +chosen.class, scale: chosen.scale, steps: chosen.steps, sampler: chosen.sampler },
      { onProgress: bar.show, onState: (step) => { bar.done(); take(step); } });
    try {
      await mine;
      if (mine === job) finished();
    } catch (error) {
      if (mine === job) state.say(`That did not work: ${error.message}. Check the connection and press “Draw” again.`);
    } finally {
      bar.done();
      if (mine === job) stage.removeAttribute("aria-busy");
    }
  }

  /** A step has come: it is shown at once, with the guess that was made before it. */
  function take({ x, x0, t }) {
    if (x0) states.at(-1).x0 = x0;  // the guess belongs to where it was made
    states.push({ x, x0: x0 ?? null, t });
    time.move(states.length - 1);
  }

  function finished() {
    states.at(-1).x0 = states.at(-1).x;
    const every = Math.max(1, Math.ceil((states.length - 1) / (THUMBNAILS - 1)));
    const chosenStates = states.map((_, i) => i).filter((i) => i % every === 0 || i === states.length - 1);
    strip.replaceChildren(...chosenStates.map((i) => {
      const small = pixels("");
      small.removeAttribute("role");
      small.setAttribute("aria-hidden", "true");
      small.show(states[i].x0);
      const b = button("", () => { time.stop(); time.move(i); });
      b.append(small);
      b.setAttribute("aria-label", `the guess at t = ${states[i].t.toFixed(2)}`);
      b.dataset.at = i;
      return b;
    }));
    time.move(states.length - 1);
    const asked = +chosen.class === ANY ? "any digit" : `a ${chosen.class}, guided at scale ${chosen.scale}`;
    state.say(`Asked for ${asked}: ${SAMPLERS[chosen.sampler][0]}, ${chosen.steps} steps, seed ${chosen.seed}. ` +
      "The slider goes back through it.", `The digit is there: ${asked}, seed ${chosen.seed}.`);
  }

  const change = (name) => (value) => { chosen[name] = value; sync(); run(); };
  const later = (then) => { let timer; return (v) => { clearTimeout(timer); timer = setTimeout(then, 200, v); }; };
  const classes = pills("Digit", CLASSES, String(chosen.class), (v) => change("class")(+v));
  classes.classList.add("live-digits-row");
  const scale = slider("Guidance", { min: 0, max: 8, step: 0.5, value: chosen.scale, words: (w) => `w = ${w}` }, later(change("scale")));
  const steps = slider("Steps", { min: 1, max: 50, step: 1, value: chosen.steps }, later(change("steps")));
  const sampler = choice("Sampler", Object.entries(SAMPLERS).map(([v, [text]]) => [v, text]), chosen.sampler, change("sampler"));
  const seed = make("input", { type: "number", min: 0, max: 65535, step: 1, value: chosen.seed, inputMode: "numeric",
    onchange: () => { if (seed.checkValidity() && seed.value !== "") change("seed")(+seed.value); } });
  const seedField = make("label", { className: "live-field" }, make("span", { textContent: "Seed" }), seed);
  const draw = button("Draw", run, "live-main");
  const another = button("Another", () => { chosen.seed = anySeed(); sync(); run(); });
  const share = button("Copy link", async () => {
    const link = address();
    history.replaceState(history.state, "", link);
    try {
      await navigator.clipboard.writeText(link);
      state.say("The link to exactly this digit is copied.");
    } catch {
      state.say("The link to exactly this digit is in the address bar.");
    }
  });

  function sync() {
    seed.value = chosen.seed;
    scale.hidden = +chosen.class === ANY;
  }

  function address() {
    const { class: label, scale: w, steps: n, sampler: name, seed: s } = chosen;
    return new URL(`#${new URLSearchParams({ seed: s, class: label, scale: w, steps: n, sampler: name })}`, location.href).href;
  }

  addEventListener("hashchange", () => {
    const asked = fromAddress();
    if (!Object.keys(asked).length) return;
    Object.assign(chosen, asked);
    classes.set(String(chosen.class));
    scale.set(chosen.scale);
    steps.set(chosen.steps);
    sampler.select.value = chosen.sampler;
    sync();
    figure.scrollIntoView();
    run();
  });

  stage.classList.add("live-digits");
  stage.append(
    make("div", { className: "live-view" },
      make("div", { className: "live-panels live-pair" },
        make("figure", {}, noisy, make("figcaption", { textContent: "the picture xₜ" })),
        make("figure", {}, guess, make("figcaption", { textContent: "the guess x̂₀" }))),
      time, strip),
    make("div", { className: "live-controls" }, classes, scale, steps, sampler, seedField,
      make("div", { className: "live-row" }, draw, another, share)),
    bar, ...state.parts,
  );
  sync();
  noisy.show(new Float32Array(SIDE * SIDE).fill(-1));
  stage.addEventListener("shown", run);
  stage.live = { chosen, time, run, get states() { return states; } };
}

/** What the address asks for, such as #seed=7&class=3&scale=2: what is no number in range is left out. */
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1)), found = {};
  if (!asked.has("seed")) return found;
  for (const [name, low, high] of [["seed", 0, 65535], ["class", -1, 9], ["scale", 0, 8], ["steps", 1, 50]]) {
    const value = Number(asked.get(name) ?? NaN);
    if (value >= low && value <= high && (name === "scale" || Number.isInteger(value))) found[name] = value;
  }
  if (asked.get("sampler") in SAMPLERS) found.sampler = asked.get("sampler");
  return found;
}
