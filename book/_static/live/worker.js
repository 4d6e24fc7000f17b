// All that takes long, away from the page: it stays responsive while this computes.
//
// A message { id, task, args } starts a task, { cancel: id } ends it. Answers are { id, kind } with kind "progress"
// (bytes so far and in all), "state" (after each step), "done" or "error".

import { cfg, clip, inpaint } from "./guidance.js";
import { GaussianMixture } from "./mixtures.js";
import { denoiser, guidedDenoiser, network } from "./networks.js";
import { normals } from "./random.js";
import { SAMPLERS, ddpm, repaint, repaintTimes } from "./samplers.js";
import { renoise, schedule, timesteps } from "./schedules.js";
import { TOYS, toyClass, toyMixture } from "./toys.js";

const LIMIT = 3;  // pictures in the plane show +-LIMIT
const cancelled = new Set();

/** The distribution of a data set or of a drawing, of all or of one class of it. */
function mixtureOf({ name, strokes, std }, part) {
  if (name) return part === null ? toyMixture(name) : toyClass(name, part);
  const chosen = part === null ? strokes : [strokes[part]];
  return new GaussianMixture(chosen.flat(), std);
}

/** The exact or the learned denoiser of what a reader has chosen. */
async function planeDenoiser({ source, part, scale, which }, levels, told) {
  if (which === "learned") {
    const net = await network("toys", [2], told), { label } = TOYS[source.name];
    return guidedDenoiser(net, levels, part === null ? label : label + 1 + part, label, scale, 2);
  }
  const whole = mixtureOf(source, null).denoiser(levels);
  return part === null ? whole : cfg(mixtureOf(source, part).denoiser(levels), whole, scale);
}

const TASKS = {
  /** Points from noise to data: { states (steps + 1, n, 2) flat, times }. */
  async flow({ sampler, steps, seed, n, ...chosen }, { told, goOn }) {
    const levels = schedule(chosen.schedule), noise = normals(seed);
    const denoise = await planeDenoiser(chosen, levels, told);
    const start = noise(2 * n), times = timesteps(levels, Math.min(steps, levels.T ?? steps));
    const states = new Float32Array(start.length * times.length);
    states.set(start);
    let at = start.length;
    for await (const { x } of SAMPLERS[sampler][1](denoise, levels, start, times, noise)) {
      states.set(x, at);
      at += x.length;
      await goOn();
    }
    return { states, times };
  },

  /** At time t: the density on a grid, largest value 1, and the score at `points`, flat. */
  async field({ t, grid, points, particles, ...chosen }, { told }) {
    const levels = schedule(chosen.schedule), at = Math.max(t, 1e-3);
    const alpha = levels.alpha(at), sigma = levels.sigma(at);
    const x0 = points && (await (await planeDenoiser(chosen, levels, told))(Float64Array.from(points), at));
    const score = x0 && Float32Array.from(x0, (v, i) => (alpha * v - points[i]) / sigma ** 2);
    const density = particles
      ? new GaussianMixture(particles, 0.12).densityGrid(1, 0, grid, LIMIT)  // the points' own, smoothed
      : guidedDensity(chosen, levels.alpha(t), levels.sigma(t), grid);
    const most = density.reduce((a, b) => Math.max(a, b), 0) || 1;
    return { density: Float32Array.from(density, (v) => v / most), score };
  },

  /** A digit: a state { x, x0, t } after every step. */
  async digit({ seed, label, scale, steps, sampler, start }, { told, goOn, state }) {
    const levels = schedule("continuous"), noise = normals(seed);
    const net = await network("mnist", [1, 28, 28], told);
    const denoise = clip(guidedDenoiser(net, levels, label, -1, scale, 784));
    const times = timesteps(levels, steps);
    let x = Float32Array.from(start ?? noise(784)), i = 0;
    state({ x, x0: null, t: 1 });
    for await (const step of SAMPLERS[sampler][1](denoise, levels, x, times, noise)) {
      x = step.x;
      state({ x, x0: step.x0, t: times[++i] });
      await goOn();
    }
    return { x };
  },

  /** A drawing finished: SDEdit where there is no mask, and otherwise the unknown pixels filled in. */
  async edit({ picture, mask, strength, seed, label, scale, steps, rounds }, { told, goOn, state }) {
    const levels = schedule("continuous"), noise = normals(seed);
    const net = await network("mnist", [1, 28, 28], told);
    const free = guidedDenoiser(net, levels, label, -1, scale, 784);
    const z = noise(784), start = mask ? 1 : strength;
    const falling = timesteps(levels, steps, start);
    const times = mask && rounds > 1 ? repaintTimes(falling, 4, rounds) : falling;
    const x = Float32Array.from(picture, (v, i) => (mask ? z[i] : levels.alpha(start) * v + levels.sigma(start) * z[i]));
    const sample = repaint(ddpm, renoise)(clip(mask ? inpaint(free, picture, mask) : free), levels, x, times, noise);
    let last = x;
    state({ x, x0: null, share: 0 });
    const calls = times.slice(1).filter((t, i) => t < times[i]).length;
    let done = 0;
    for await (const step of sample) {
      last = step.x;
      state({ x: step.x, x0: step.x0, share: ++done / calls });
      await goOn();
    }
    return { x: last };
  },

  /** Only load, so that a first run need not. */
  async warm({ name }, { told }) {
    await network(name, name === "toys" ? [2] : [1, 28, 28], told);
    return {};
  },
};

/** The density that the guided score belongs to at a time: p(x)^(1 - w) p(x | class)^w, up to a factor. */
function guidedDensity({ source, part, scale }, alpha, sigma, grid) {
  const whole = mixtureOf(source, null).densityGrid(alpha, sigma, grid, LIMIT);
  if (part === null) return whole;
  const own = mixtureOf(source, part).densityGrid(alpha, sigma, grid, LIMIT);
  return own.map((v, i) => (v > 0 && whole[i] > 0 ? Math.exp((1 - scale) * Math.log(whole[i]) + scale * Math.log(v)) : 0));
}

/** Lets messages in between two steps. */
function breath() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); resolve(); };
    port2.postMessage(null);
  });
}

self.onmessage = async ({ data }) => {
  if ("cancel" in data) return cancelled.add(data.cancel);
  const { id, task, args } = data, answer = (kind, value) => self.postMessage({ id, kind, value });
  const goOn = async () => {
    await breath();
    if (cancelled.has(id)) throw new Error("cancelled");
  };
  const tools = { goOn, told: (...bytes) => answer("progress", bytes), state: (value) => answer("state", value) };
  try {
    answer("done", await TASKS[task](args, tools));
  } catch (error) {
    answer("error", error.message);
  }
  cancelled.delete(id);
};
