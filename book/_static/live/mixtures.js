// Mixtures of Gaussians in the plane: their density and their denoiser in closed form, as in course_utils/mixtures.py.

/** sum_k weights[k] N(means[k], std[k]^2 I); means is flat: x0, y0, x1, y1, ... Equal weights, and one std or K. */
export class GaussianMixture {
  constructor(means, std) {
    this.means = Float64Array.from(means);
    this.K = means.length / 2;
    this.std = typeof std === "number" ? new Float64Array(this.K).fill(std) : Float64Array.from(std);
  }

  /** The components from `first` up to `end`, as a mixture of their own. */
  part(first, end) { return new GaussianMixture(this.means.slice(2 * first, 2 * end), this.std.slice(first, end)); }

  /** The exact E[x0 | x_t], a function (x, t) -> x0_hat; x is flat. */
  denoiser(schedule) {
    return (x, t) => {
      const { means, std, K } = this, alpha = schedule.alpha(t), sigma = schedule.sigma(t);
      const variance = std.map((s) => Math.max((alpha * s) ** 2 + sigma ** 2, 1e-12));
      const logScale = variance.map((v) => -Math.log(v)), pull = std.map((s, k) => alpha * s * s / variance[k]);
      const out = new Float64Array(x.length), logits = new Float64Array(K);
      for (let i = 0; i < x.length; i += 2) {
        let most = -Infinity;
        for (let k = 0; k < K; k++) {
          const dx = x[i] - alpha * means[2 * k], dy = x[i + 1] - alpha * means[2 * k + 1];
          const logit = logScale[k] - (dx * dx + dy * dy) / (2 * variance[k]);
          logits[k] = logit;
          if (logit > most) most = logit;
        }
        let total = 0, meanX = 0, meanY = 0, shrink = 0;
        for (let k = 0; k < K; k++) {
          if (logits[k] < most - 40) continue;  // less than 1e-17 of the largest
          const weight = Math.exp(logits[k] - most), own = weight * (1 - alpha * pull[k]);
          total += weight;
          meanX += own * means[2 * k];
          meanY += own * means[2 * k + 1];
          shrink += weight * pull[k];
        }
        out[i] = (meanX + shrink * x[i]) / total;
        out[i + 1] = (meanY + shrink * x[i + 1]) / total;
      }
      return out;
    };
  }

  /** The density of alpha x0 + sigma eps on an n x n grid over +-limit, top row first: a Float64Array. */
  densityGrid(alpha, sigma, n, limit) {
    const out = new Float64Array(n * n), along = new Float64Array(n), across = new Float64Array(n);
    const at = (i) => limit * ((2 * i + 1) / n - 1);
    for (let k = 0; k < this.K; k++) {
      const variance = Math.max((alpha * this.std[k]) ** 2 + sigma ** 2, 1e-6), factor = 1 / (2 * Math.PI * variance * this.K);
      for (let i = 0; i < n; i++) {  // a round Gaussian is a product of two
        along[i] = Math.exp(-((at(i) - alpha * this.means[2 * k]) ** 2) / (2 * variance));
        across[i] = factor * Math.exp(-((-at(i) - alpha * this.means[2 * k + 1]) ** 2) / (2 * variance));
      }
      for (let row = 0; row < n; row++) {
        if (across[row] < 1e-12) continue;
        for (let column = 0; column < n; column++) out[row * n + column] += across[row] * along[column];
      }
    }
    return out;
  }
}
