// The parts that live elements are made of: labelled controls, canvases that stay sharp, a time line, a spoken state.

/** An element with properties, attributes (with a dash, or "role") and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** A list to choose from; entries are [value, text]. */
export function choice(label, entries, value, onChange) {
  const select = make("select", { onchange: () => onChange(select.value) },
    ...entries.map(([v, text]) => make("option", { value: v, textContent: text, selected: v === value })));
  const element = make("label", { className: "live-field" }, make("span", { textContent: label }), select);
  return Object.assign(element, {
    select,
    set(newEntries, newValue) {
      select.replaceChildren(...newEntries.map(([v, text]) =>
        make("option", { value: v, textContent: text, selected: v === newValue })));
    },
  });
}

/** One of a few, all in sight: radio buttons as a row of pills. */
export function pills(label, entries, value, onChange) {
  const name = `live-${Math.random().toString(36).slice(2)}`;
  const inputs = entries.map(([v]) => make("input", { type: "radio", name, value: v, checked: v === value,
    onchange: () => onChange(v) }));
  const element = make("fieldset", { className: "live-pills" }, make("legend", { textContent: label }),
    ...entries.map(([, text], i) => make("label", {}, inputs[i], make("span", { textContent: text }))));
  return Object.assign(element, { inputs, set(v) { inputs.forEach((input) => { input.checked = input.value === v; }); } });
}

/** A slider with its value in words beside it. */
export function slider(label, { min, max, step, value, words = String }, onInput) {
  const input = make("input", { type: "range", min, max, step, oninput: () => { tell(); onInput(+input.value); } });
  input.value = value;
  const output = make("output");
  const tell = () => {
    output.textContent = words(+input.value);
    input.setAttribute("aria-valuetext", words(+input.value));
  };
  tell();
  const element = make("label", { className: "live-field live-slider" }, make("span", { textContent: label }), input, output);
  return Object.assign(element, { input, set(v) { input.value = v; tell(); } });
}

export const button = (text, onClick, className = "") =>
  make("button", { type: "button", textContent: text, onclick: onClick, className });

/** A line that is read aloud where a change comes to rest, and not at every step of it. */
export function spoken() {
  const seen = make("p", { className: "live-state" }), said = make("p", { className: "live-said", role: "status", "aria-live": "polite" });
  let timer;
  return {
    parts: [seen, said],
    say(text, aloud = text) {
      seen.textContent = text;
      clearTimeout(timer);
      timer = setTimeout(() => { said.textContent = aloud; }, 500);
    },
  };
}

/** A bar that shows how much has been loaded. */
export function progress() {
  const bar = make("progress", { max: 1, value: 0, "aria-label": "loading" }), words = make("span");
  const element = make("p", { className: "live-progress", hidden: true }, bar, words);
  return Object.assign(element, {
    show(received, total) {
      element.hidden = received >= total;
      bar.value = total ? received / total : 0;
      words.textContent = `loading the network: ${(received / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`;
    },
    done() { element.hidden = true; },
  });
}

/** A canvas as sharp as the screen; draw(context, width, height) is called whenever it must be. */
export function canvas(draw, properties = {}) {
  const element = make("canvas", { role: "img", ...properties });
  let waiting = false;
  element.redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const { width, height } = element.getBoundingClientRect(), dots = Math.min(devicePixelRatio || 1, 2);
      if (!width || !height) return;
      const [w, h] = [Math.round(width * dots), Math.round(height * dots)];
      if (element.width !== w || element.height !== h) Object.assign(element, { width: w, height: h });
      const context = element.getContext("2d");
      context.setTransform(dots, 0, 0, dots, 0, 0);
      draw(context, width, height);
    });
  };
  new ResizeObserver(element.redraw).observe(element);
  onTheme(element.redraw);
  return element;
}

/** After a quick stroke on it the browser does not glide on: it would take the next tap for a finger that stops it. */
export function dontGlide(pad, isOn = () => true) {
  pad.addEventListener("touchmove", (event) => { if (isOn()) event.preventDefault(); }, { passive: false });
}

/** The page's colours as they are now. */
export function colors() {
  const style = getComputedStyle(document.documentElement);
  const dark = document.documentElement.dataset.theme === "dark";
  const read = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  return {
    dark,
    paper: read("--pst-color-background", dark ? "#12171c" : "#ffffff"),
    text: read("--pst-color-text-base", dark ? "#ced6dd" : "#222832"),
    line: read("--course-line", "#8a8a8a"),
    exact: dark ? "#6cb8e6" : "#0072b2",
    learned: dark ? "#f4a259" : "#d55e00",
    series: dark ? ["#6cb8e6", "#4fc9a3", "#e3a3c9", "#b9c2ca", "#f4a259"] : ["#0072b2", "#00795a", "#a8518b", "#5d656c", "#c25200"],
    shade: dark ? [[18, 23, 28], [44, 62, 80], [96, 129, 160]] : [[255, 255, 255], [201, 211, 223], [127, 147, 171]],
  };
}

function onTheme(run) {
  new MutationObserver(run).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
}

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Time, both ways: a button that plays and a slider over the states 0..last. show(position) is given a real number. */
export function timeline(show, { words, seconds = 3 }) {
  let last = 1, position = 0, frame = null, before = 0;
  const play = button("Play", () => (frame === null ? start() : stop()), "live-play");
  const input = make("input", { type: "range", min: 0, max: 1, step: 1, value: 0, "aria-label": "time, from noise to data",
    oninput: () => { stop(); move(+input.value); } });
  const output = make("output");
  const move = (p) => {
    position = p;
    input.value = Math.round(p);
    output.textContent = words(p);
    input.setAttribute("aria-valuetext", words(p));
    show(p);
  };
  const tick = (now) => {
    position += (now - before) / 1000 / seconds * last;
    before = now;
    if (position >= last) {
      move(last);
      return stop();
    }
    move(position);
    frame = requestAnimationFrame(tick);
  };
  function start() {
    if (position >= last) position = 0;
    play.textContent = "Pause";
    before = performance.now();
    frame = requestAnimationFrame(tick);
  }
  function stop() {
    cancelAnimationFrame(frame);
    frame = null;
    play.textContent = "Play";
  }
  const element = make("div", { className: "live-time" }, play, input, output);
  return Object.assign(element, {
    play: start, stop, move,
    get position() { return position; },
    get playing() { return frame !== null; },
    reach(n) { last = Math.max(n, 1); input.max = last; },
  });
}
