// Trained networks in the browser: onnxruntime-web and the exported weights, fetched once and unpacked here.

import { fromVelocity } from "./guidance.js";

const here = (path) => new URL(path, import.meta.url);

/** What a file packed with gzip's format holds, an ArrayBuffer; `told(bytes so far, bytes in all)` hears how it goes. */
export async function unpacked(path, told = () => {}) {
  const response = await fetch(here(path));
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  const total = Number(response.headers.get("Content-Length")) || 0, parts = [];
  let received = 0;
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    received += value.length;
    told(received, Math.max(total, received));
  }
  const blob = new Blob(parts), start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  if (start[0] !== 0x1f || start[1] !== 0x8b) return blob.arrayBuffer();  // the server has unpacked it on the way
  return new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

let runtime;
const sessions = {};

async function startRuntime(told) {
  const [ort, wasm] = await Promise.all([import("./runtime/ort.js"), unpacked("runtime/ort.wasm.gz", told)]);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;  // more need headers that few servers send
  return ort;
}

/** The network `name` as a function (x, t, labels) -> output: x of any number of samples, one label for each. */
export function network(name, shape, told = () => {}) {
  sessions[name] ??= load(name, told).catch((error) => {
    delete sessions[name];  // so that a later try fetches anew
    throw error;
  });
  return sessions[name].then(({ ort, session }) => async (x, t, labels) => {
    const n = labels.length, times = new Float32Array(n).fill(t);
    const out = await session.run({
      x: new ort.Tensor("float32", Float32Array.from(x), [n, ...shape]),
      t: new ort.Tensor("float32", times, [n]),
      y: new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [n]),
    });
    return out.out.data;
  });
}

async function load(name, told) {
  const shares = { runtime: [0, 0], weights: [0, 0] };
  const note = (part) => (received, total) => {
    shares[part] = [received, total];
    told(shares.runtime[0] + shares.weights[0], shares.runtime[1] + shares.weights[1]);
  };
  runtime ??= startRuntime(note("runtime")).catch((error) => {
    runtime = undefined;
    throw error;
  });
  const [ort, weights] = await Promise.all([runtime, unpacked(`models/${name}.onnx.gz`, note("weights"))]);
  return { ort, session: await ort.InferenceSession.create(new Uint8Array(weights), { executionProviders: ["wasm"] }) };
}

/** A network that says v as a denoiser (x, t) -> x0_hat of the label, for samplers of `schedule`.
 *
 * The networks count time by the continuous cosine schedule. Any other is told in those terms: only sigma / alpha counts. */
export function denoiser(net, schedule, label, size) {
  return async (x, t) => {
    const alpha = schedule.alpha(t), sigma = schedule.sigma(t);
    const v = await net(x, ownTime(schedule, t), new Array(x.length / size).fill(label));
    return fromVelocity(v, x, alpha, sigma);
  };
}

/** Classifier-free guidance with both questions in one batch. */
export function guidedDenoiser(net, schedule, label, whole, scale, size) {
  if (scale === 0 || scale === 1 || label === whole) return denoiser(net, schedule, scale === 0 ? whole : label, size);
  return async (x, t) => {
    const n = x.length / size, twice = new Float32Array(2 * x.length);
    twice.set(x);
    twice.set(x, x.length);
    const labels = [...new Array(n).fill(label), ...new Array(n).fill(whole)];
    const v = await net(twice, ownTime(schedule, t), labels);
    const guided = v.subarray(x.length).map((without, i) => without + scale * (v[i] - without));
    return fromVelocity(guided, x, schedule.alpha(t), schedule.sigma(t));
  };
}

const ownTime = (schedule, t) =>
  schedule.T === null ? t : Math.atan2(schedule.sigma(t), schedule.alpha(t)) * 2 / Math.PI;
