// What turns denoisers into a denoiser, as in course_utils/guidance.py. All are functions (x, t) -> x0_hat, or promise it.

/** Classifier-free guidance (Ho & Salimans 2022): scale 0 asks for no class, 1 for the class, above 1 is guided. */
export const cfg = (conditional, unconditional, scale) => async (x, t) => {
  if (scale === 0) return unconditional(x, t);
  if (scale === 1) return conditional(x, t);
  const [without, asked] = [await unconditional(x, t), await conditional(x, t)];
  return without.map((v, i) => v + scale * (asked[i] - v));
};

/** x0_hat kept within the range of the data. */
export const clip = (denoise) => async (x, t) => (await denoise(x, t)).map((v) => Math.min(1, Math.max(-1, v)));

/** x0_hat with the known pixels put in where mask is 1. */
export const inpaint = (denoise, known, mask) => async (x, t) =>
  (await denoise(x, t)).map((v, i) => (mask[i] ? known[i] : v));

/** x0_hat from a network's v = alpha eps - sigma x0, where alpha^2 + sigma^2 = 1 (Salimans & Ho 2022). */
export const fromVelocity = (v, x, alpha, sigma) => x.map((value, i) => alpha * value - sigma * v[i]);
