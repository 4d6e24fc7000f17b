// One picture at time t under every schedule: the picture, its coefficients, and where on the curves that is.

import { canvas, colors, make, pills, slider, spoken } from "./controls.js";
import { SIDE, pixels } from "./pixels.js";
import { normals } from "./random.js";
import { SCHEDULES, schedule } from "./schedules.js";
import { toyMixture } from "./toys.js";

const LOW = -12, HIGH = 10;  // of the logarithm of the signal-to-noise ratio
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [12, 5]];

export default async function build(stage, options) {
  const names = Object.keys(SCHEDULES).filter((name) => !(options.without ?? []).includes(name));
  const digit = Float32Array.from(await (await fetch(new URL("models/digit.json", import.meta.url))).json(), (v) => v / 127.5 - 1);
  const noise = { digit: normals(5)(SIDE * SIDE), points: normals(6)(2 * 400) }, points = toyMixture("moons").means;
  let t = options.t ?? 0.4, kind = options.picture ?? "digit";

  const cards = names.map((name, i) => {
    const levels = schedule(name), title = SCHEDULES[name][0];
    const image = pixels(`a digit under the ${title} schedule`);
    const plane = canvas((context, side) => drawPoints(context, side, levels), { className: "live-pixels", "aria-label": `two moons under the ${title} schedule` });
    const numbers = ["α", "σ", "SNR"].map((symbol) => [make("dt", { textContent: symbol }), make("dd")]);
    return { name, levels, title, image, plane, numbers, i, element: make("figure", {}, image, plane,
      make("figcaption", { textContent: title }), make("dl", {}, ...numbers.flat())) };
  });

  function drawPoints(context, side, levels) {
    const palette = colors(), alpha = levels.alpha(t), sigma = levels.sigma(t);
    context.fillStyle = palette.paper;
    context.fillRect(0, 0, side, side);
    context.fillStyle = palette.exact;
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = [0, 1].map((axis) => alpha * points[i + axis] + sigma * noise.points[i + axis]);
      context.fillRect((x / 3 + 1) / 2 * side - 1, (1 - y / 3) / 2 * side - 1, 2, 2);
    }
  }

  const chart = canvas((context, width, height) => {
    const palette = colors(), left = 42, right = 12, top = 10, bottom = 34;
    const X = (u) => left + u * (width - left - right), Y = (v) => top + (HIGH - v) / (HIGH - LOW) * (height - top - bottom);
    context.clearRect(0, 0, width, height);
    context.font = "13px system-ui, sans-serif";
    context.fillStyle = palette.text;
    context.strokeStyle = palette.line;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const v of [-10, -5, 0, 5, 10]) {
      context.fillText(v, left - 7, Y(v));
      context.beginPath(); context.moveTo(left, Y(v)); context.lineTo(width - right, Y(v)); context.stroke();
    }
    context.textAlign = "center";
    for (const u of [0, 0.2, 0.4, 0.6, 0.8, 1]) context.fillText(u, X(u), height - bottom + 14);
    context.fillText("t", X(0.5), height - 7);
    cards.forEach(({ levels, i }) => {
      context.save();
      context.beginPath(); context.rect(left, top, width - left - right, height - top - bottom); context.clip();
      context.strokeStyle = palette.series[i % 5];
      context.setLineDash(DASHES[i % 5]);
      context.lineWidth = 2;
      context.beginPath();
      for (let u = 0.002; u <= 1; u += 0.002) context.lineTo(X(u), Y(Math.max(LOW - 1, logRatio(levels, u))));
      context.stroke();
      context.restore();
      if (t > 0) {
        context.fillStyle = palette.series[i % 5];
        context.beginPath(); context.arc(X(t), Y(Math.min(HIGH, Math.max(LOW, logRatio(levels, t)))), 5, 0, 2 * Math.PI); context.fill();
      }
    });
    context.strokeStyle = palette.text;
    context.beginPath(); context.moveTo(X(t), top); context.lineTo(X(t), height - bottom); context.stroke();
  }, { className: "live-chart" });

  const swatches = cards.map(({ i }) => canvas((context, width, height) => {
    context.clearRect(0, 0, width, height);
    context.strokeStyle = colors().series[i % 5];
    context.setLineDash(DASHES[i % 5]);
    context.lineWidth = 2.5;
    context.beginPath(); context.moveTo(0, height / 2); context.lineTo(width, height / 2); context.stroke();
  }, { className: "live-swatch", "aria-hidden": "true" }));
  cards.forEach(({ element }, i) => element.querySelector("figcaption").prepend(swatches[i]));

  const time = slider("Time t", { min: 0, max: 1, step: 0.01, value: t, words: (u) => u.toFixed(2) }, (u) => { t = u; show(); });
  const what = pills("Picture", [["digit", "a digit"], ["points", "two moons"]], kind, (v) => { kind = v; show(); });
  const state = spoken();

  function show() {
    for (const { levels, image, plane, numbers } of cards) {
      const alpha = levels.alpha(t), sigma = levels.sigma(t);
      image.hidden = kind !== "digit";
      plane.hidden = kind === "digit";
      if (kind === "digit") image.show(digit.map((v, i) => alpha * v + sigma * noise.digit[i]));
      else plane.redraw();
      [alpha, sigma, (alpha / sigma) ** 2].forEach((v, i) => { numbers[i][1].textContent = short(v); });
    }
    chart.redraw();
    const words = cards.map(({ title, levels }) => `${title} ${short((levels.alpha(t) / levels.sigma(t)) ** 2)}`).join(", ");
    chart.setAttribute("aria-label", `logarithm of the signal-to-noise ratio against t for ${cards.length} schedules, all falling; at t = ${t.toFixed(2)} the ratios are: ${words}`);
    state.say("Below: log SNR = log(α² / σ²) of each schedule against t.", `At t = ${t.toFixed(2)} the signal-to-noise ratios are: ${words}.`);
  }

  stage.classList.add("live-wide");
  stage.append(
    make("div", { className: "live-controls live-across" }, time, what),
    make("div", { className: "live-levels" }, ...cards.map(({ element }) => element)),
    ...state.parts, chart,
  );
  show();
  stage.live = { cards, time };
}

const logRatio = (levels, t) => 2 * (Math.log(levels.alpha(t)) - Math.log(levels.sigma(t)));

function short(v) {
  if (!Number.isFinite(v)) return "∞";
  if (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e4)) return v.toExponential(1).replace("e+", "e").replace("-", "−");
  return v.toFixed(v >= 100 ? 0 : v >= 10 ? 1 : 3);
}
