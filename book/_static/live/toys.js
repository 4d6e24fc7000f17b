// The two-dimensional data sets as exact mixtures, standardised: the same as course_utils.data.toy_mixture.

import { GaussianMixture } from "./mixtures.js";

const N_CURVE = 400;
const middles = (n) => Array.from({ length: n }, (_, i) => (i + 0.5) / n);
const arc = (turns) => middles(N_CURVE / 2).map((u) => [Math.cos(2 * Math.PI * turns * u), Math.sin(2 * Math.PI * turns * u)]);
const CENTRES = {
  moons: () => [...arc(0.5), ...arc(0.5).map(([x, y]) => [1 - x, 0.5 - y])],
  circles: () => [...arc(1), ...arc(1).map(([x, y]) => [x / 2, y / 2])],
  swiss_roll: () => middles(N_CURVE).map((u) => 1.5 * Math.PI * (1 + 2 * u)).map((t) => [t * Math.cos(t), t * Math.sin(t)]),
  s_curve: () => middles(N_CURVE).map((u) => 3 * Math.PI * (u - 0.5)).map((t) => [Math.sin(t), Math.sign(t) * (Math.cos(t) - 1)]),
  mixture: () => Array.from({ length: 8 }, (_, k) => [Math.cos(k * Math.PI / 4), Math.sin(k * Math.PI / 4)]),
};

/** name -> what it is called, its std, its classes, and the network's label of the whole set (classes follow it). */
export const TOYS = {
  moons: { title: "two moons", std: 0.1, classes: ["upper moon", "lower moon"], label: 0 },
  circles: { title: "two circles", std: 0.05, classes: ["outer circle", "inner circle"], label: 3 },
  swiss_roll: { title: "Swiss roll", std: 0.3, classes: ["inner half", "outer half"], label: 6 },
  s_curve: { title: "S-curve", std: 0.05, classes: ["upper half", "lower half"], label: 9 },
  mixture: { title: "eight Gaussians", std: 0.1, classes: Array.from({ length: 8 }, (_, k) => `Gaussian ${k + 1}`), label: 12 },
};

const made = {};

/** The exact distribution of a data set, centred and scaled to a mean variance of 1. */
export function toyMixture(name) {
  if (made[name]) return made[name];
  const centres = CENTRES[name](), n = centres.length, { std } = TOYS[name];
  const mean = [0, 1].map((axis) => centres.reduce((sum, c) => sum + c[axis], 0) / n);
  const spread = centres.reduce((sum, c) => sum + (c[0] - mean[0]) ** 2 + (c[1] - mean[1]) ** 2, 0) / n;
  const scale = Math.sqrt(spread / 2 + std ** 2);
  return (made[name] = new GaussianMixture(centres.flatMap((c) => [(c[0] - mean[0]) / scale, (c[1] - mean[1]) / scale]), std / scale));
}

/** The components of class c: equally many for each. */
export function toyClass(name, c) {
  const whole = toyMixture(name), size = whole.K / TOYS[name].classes.length;
  return whole.part(c * size, (c + 1) * size);
}
