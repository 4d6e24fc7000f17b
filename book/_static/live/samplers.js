// Samplers: from noise back to data, with any denoiser. As in course_utils/samplers.py, step by step.
//
// Each is a generator sampler(denoise, schedule, x, times, noise): `denoise` is a function (x, t) -> x0_hat, x a typed
// array, the times fall, and noise(n) gives n normal numbers. After every step it yields { x, x0 }: where the step led,
// and the guess of the data that it took.

/** Ancestral sampling: draw from q(x_s | x_t, x0_hat) (Ho et al. 2020, algorithm 2). */
export async function* ddpm(denoise, schedule, x, times, noise) {
  for (const [t, , [alpha, sigma], [alphaNext, sigmaNext]] of steps(schedule, times)) {
    const x0 = await denoise(x, t);
    const ratio = alpha / alphaNext, up = sigma ** 2 - (ratio * sigmaNext) ** 2;
    const kept = ratio * sigmaNext ** 2 / sigma ** 2, towards = alphaNext * up / sigma ** 2;
    const std = Math.sqrt(up * sigmaNext ** 2 / sigma ** 2);
    const z = sigmaNext > 0 ? noise(x.length) : null;
    x = x.map((v, i) => kept * v + towards * x0[i] + (z ? std * z[i] : 0));
    yield { x, x0 };
  }
}

/** DDIM (Song, Meng & Ermon 2021), without noise: eta = 0. */
export async function* ddim(denoise, schedule, x, times) {
  for (const [t, , [alpha, sigma], [alphaNext, sigmaNext]] of steps(schedule, times)) {
    const x0 = await denoise(x, t);
    x = towards(x, x0, alpha, sigma, alphaNext, sigmaNext);
    yield { x, x0 };
  }
}

/** Heun's method along the angle atan2(sigma, alpha), two guesses a step (Karras et al. 2022, algorithm 1). */
export async function* heun(denoise, schedule, x, times) {
  for (const [t, tNext, [alpha, sigma], [alphaNext, sigmaNext]] of steps(schedule, times)) {
    const x0 = await denoise(x, t), predicted = towards(x, x0, alpha, sigma, alphaNext, sigmaNext);
    if (sigmaNext > 0) {
      const scale = Math.hypot(alpha, sigma), scaleNext = Math.hypot(alphaNext, sigmaNext);
      const x0Next = await denoise(predicted, tNext);
      const half = (Math.atan2(sigmaNext, alphaNext) - Math.atan2(sigma, alpha)) / 2;
      const v = velocity(x, x0, alpha, sigma), vNext = velocity(predicted, x0Next, alphaNext, sigmaNext);
      x = x.map((value, i) => scaleNext * (value / scale + half * (v(i) / scale + vNext(i) / scaleNext)));
    } else x = predicted;
    yield { x, x0 };
  }
}

/** DPM-Solver++(2M): the step before supplies the slope of x0_hat (Lu et al. 2022, algorithm 2). */
export async function* dpmpp_2m(denoise, schedule, x, times) {
  let before = null, lengthBefore = null;
  for (const [t, , [alpha, sigma], [alphaNext, sigmaNext]] of steps(schedule, times)) {
    const x0 = await denoise(x, t);
    const length = Math.log(sigmaNext > 0 ? alphaNext / sigmaNext : Infinity) - Math.log(alpha / sigma);
    const slope = lengthBefore && Number.isFinite(length) ? length / lengthBefore / 2 : 0;
    const guess = slope ? x0.map((v, i) => v + slope * (v - before[i])) : x0;
    x = towards(x, guess, alpha, sigma, alphaNext, sigmaNext);
    [before, lengthBefore] = [x0, length];
    yield { x, x0 };
  }
}

/** The samplers that a reader can choose: name -> [what it is called, the sampler]. */
export const SAMPLERS = {
  ddim: ["DDIM", ddim],
  ddpm: ["ancestral (DDPM)", ddpm],
  heun: ["Heun", heun],
  dpmpp_2m: ["DPM-Solver++(2M)", dpmpp_2m],
};

/** A sampler whose times may also rise: there x is noised again (RePaint: Lugmayr et al. 2022, algorithm 1). */
export const repaint = (sampler, renoise) => async function* (denoise, schedule, x, times, noise) {
  let before = null;
  for (const stretch of fallingStretches(times)) {
    if (before !== null) x = renoise(schedule, x, before, stretch[0], noise(x.length));
    for await (const state of sampler(denoise, schedule, x, stretch, noise)) {
      x = state.x;
      yield state;
    }
    before = stretch.at(-1);
  }
};

/** Times that fall and jump back up: every stretch of `jump` steps is walked n times. */
export function repaintTimes(times, jump, n) {
  const walked = [times[0]];
  for (let start = 0; start < times.length - 1; start += jump) {
    const stretch = times.slice(start, start + jump + 1);
    walked.push(...stretch.slice(1));
    for (let again = 1; again < n; again++) walked.push(...stretch);
  }
  return walked;
}

function fallingStretches(times) {
  const stretches = [[times[0]]];
  for (let i = 1; i < times.length; i++) {
    if (times[i] > times[i - 1]) stretches.push([]);
    stretches.at(-1).push(times[i]);
  }
  return stretches;
}

/** A first-order step: the guess at the next level, with the noise that is in x already. */
function towards(x, x0, alpha, sigma, alphaNext, sigmaNext) {
  const kept = sigmaNext / sigma, weight = alphaNext - kept * alpha;
  return x.map((v, i) => kept * v + weight * x0[i]);
}

const velocity = (x, x0, alpha, sigma) => (i) => alpha * (x[i] - alpha * x0[i]) / sigma - sigma * x0[i];

function* steps(schedule, times) {
  const level = (t) => [schedule.alpha(t), schedule.sigma(t)];
  for (let i = 0; i + 1 < times.length; i++) {
    if (!(times[i + 1] < times[i])) throw new RangeError("a sampler's times fall");
    yield [times[i], times[i + 1], level(times[i]), level(times[i + 1])];
  }
}
