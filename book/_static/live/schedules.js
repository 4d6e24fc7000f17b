// Noise schedules: x_t = alpha(t) x0 + sigma(t) eps with t in [0, 1], as in course_utils/schedules.py.

/** A table of betas (beta_1..beta_T), seen at t = k / T; between two levels log alpha_bar is a straight line. */
class Discrete {
  constructor(betas) {
    this.T = betas.length;
    this.logAlphaBar = new Float64Array(this.T + 1);
    betas.forEach((beta, k) => { this.logAlphaBar[k + 1] = this.logAlphaBar[k] + Math.log1p(-beta); });
  }

  logAlphaBarAt(t) {
    let k = t * this.T;
    if (Math.abs(k - Math.round(k)) < 1e-3) k = Math.round(k);
    const low = Math.min(Math.floor(k), this.T - 1), table = this.logAlphaBar;
    return table[low] + (k - low) * (table[low + 1] - table[low]);
  }

  alpha(t) { return Math.exp(0.5 * this.logAlphaBarAt(t)); }
  sigma(t) { return Math.sqrt(-Math.expm1(this.logAlphaBarAt(t))); }
}

/** alpha = cos(pi t / 2), sigma = sin(pi t / 2), alpha kept above 1e-4. */
class Continuous {
  T = null;
  alpha(t) { return Math.max(Math.cos(t * Math.PI / 2), 1e-4); }
  sigma(t) { return Math.min(Math.sin(t * Math.PI / 2), Math.sqrt(1 - 1e-8)); }
}

const line = (T, first, last) => Array.from({ length: T }, (_, k) => first + k * (last - first) / (T - 1));

export const linear = (T = 1000, first = 1e-4, last = 0.02) => new Discrete(line(T, first, last));
export const quadratic = (T = 1000, first = 1e-4, last = 0.02) =>
  new Discrete(line(T, first ** 0.5, last ** 0.5).map((root) => root ** 2));
export const sigmoid = (T = 1000, first = 1e-4, last = 0.02) =>
  new Discrete(line(T, -6, 6).map((u) => first + (last - first) / (1 + Math.exp(-u))));
export const cosine = (T = 1000, s = 0.008, most = 0.999) => {
  const f = (k) => Math.cos((k / T + s) / (1 + s) * Math.PI / 2) ** 2;
  return new Discrete(Array.from({ length: T }, (_, k) => Math.min(1 - f(k + 1) / f(k), most)));
};
export const continuous = () => new Continuous();

/** The schedules that a reader can choose: name -> [what it is called, how it is made]. */
export const SCHEDULES = {
  linear: ["linear", linear],
  quadratic: ["quadratic", quadratic],
  sigmoid: ["sigmoid", sigmoid],
  cosine: ["cosine", cosine],
  tutorial: ["the tutorial’s", () => sigmoid(100, 1e-5, 5e-3)],
};

const made = {};
export const schedule = (name) => (made[name] ??= name === "continuous" ? continuous() : SCHEDULES[name][1]());

/** The n + 1 times of an n-step sampler, from tStart down to 0; on the grid k / T where time is discrete. */
export function timesteps({ T }, n, tStart = 1) {
  const most = T ? Math.round(tStart * T) : Infinity;
  if (!(tStart > 0 && tStart <= 1)) throw new RangeError(`the start is at t = ${tStart}; it lies above 0, and 1 is the last`);
  if (!(n >= 1 && n <= most)) throw new RangeError(`${n} steps asked for; give at least 1 and at most ${most}`);
  const step = -tStart / n;  // summed from the nearer end, as torch.linspace does
  const times = Array.from({ length: n + 1 }, (_, i) => (i < (n + 1) / 2 ? tStart + step * i : -step * (n - i)));
  return T ? times.map((t) => halfToEven(t * T) / T) : times;
}

function halfToEven(v) {
  const low = Math.floor(v), rest = v - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** x at time `from` carried up to the noisier time `to`, with the given noise: a draw of q(x_to | x_from). */
export function renoise(schedule, x, from, to, z) {
  const ratio = schedule.alpha(to) / schedule.alpha(from);
  const std = Math.sqrt(Math.max(0, schedule.sigma(to) ** 2 - (ratio * schedule.sigma(from)) ** 2));
  return x.map((v, i) => ratio * v + std * z[i]);
}
