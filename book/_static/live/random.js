// Random numbers that a seed decides: the same seed gives the same picture in every browser.

/** Uniform numbers in [0, 1) from a 32-bit seed (T. Ettinger's mulberry32). */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A function n -> n standard normal numbers, a Float64Array (Box & Muller 1958). */
export function normals(seed) {
  const next = uniform(seed);
  return (n) => {
    const out = new Float64Array(n);
    for (let i = 0; i < n; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - next())), angle = 2 * Math.PI * next();
      out[i] = radius * Math.cos(angle);
      if (i + 1 < n) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  };
}

/** A seed that nobody chose. */
export const anySeed = () => crypto.getRandomValues(new Uint16Array(1))[0];
