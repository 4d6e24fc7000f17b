// Asks the worker, of which a page has one.

let worker, count = 0;
const open = new Map();

function start() {
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, kind, value } }) => {
    const call = open.get(id);
    if (!call) return;
    if (kind === "progress") return call.onProgress?.(...value);
    if (kind === "state") return call.onState?.(value);
    open.delete(id);
    return kind === "done" ? call.resolve(value) : call.reject(new Error(value));
  };
  worker.onerror = (event) => {
    for (const { reject } of open.values()) reject(new Error(event.message || "the worker did not start"));
    open.clear();
    worker = undefined;
  };
}

/** The result of a task as a promise with a method cancel(); states and progress are handed on as they come. */
export function call(task, args, { onState, onProgress } = {}) {
  if (!worker) start();
  const id = ++count;
  const promise = new Promise((resolve, reject) => open.set(id, { resolve, reject, onState, onProgress }));
  worker.postMessage({ id, task, args });
  promise.cancel = () => {
    if (open.delete(id)) worker?.postMessage({ cancel: id });  // the promise then stays open, and nobody waits for it
  };
  return promise;
}
