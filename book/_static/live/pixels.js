// Small grey pictures, values in [-1, 1], as ink on paper: -1 is the paper and 1 the ink, as in the course's figures.

import { canvas, colors } from "./controls.js";

export const SIDE = 28;

/** A canvas that shows a picture of 28 x 28; show(values) draws another, null leaves the paper empty. */
export function pixels(label, overlay = () => {}) {
  let values = null;
  const sheet = new OffscreenCanvas(SIDE, SIDE);
  const element = canvas((context, side) => {
    context.clearRect(0, 0, side, side);
    context.fillStyle = colors().paper;
    context.fillRect(0, 0, side, side);
    if (values) {
      sheet.getContext("2d").putImageData(inked(values), 0, 0);
      context.imageSmoothingEnabled = false;
      context.drawImage(sheet, 0, 0, side, side);
    }
    overlay(context, side);
  }, { className: "live-pixels", "aria-label": label });
  element.show = (v) => { values = v; element.redraw(); };
  return element;
}

/** Grey between the page's paper and its ink, so that a digit is a digit in light and in dark. */
function inked(values) {
  const { dark } = colors(), paper = dark ? [18, 23, 28] : [255, 255, 255], ink = dark ? [244, 246, 248] : [16, 20, 24];
  const image = new ImageData(SIDE, SIDE);
  values.forEach((v, i) => {
    const depth = Math.min(1, Math.max(0, (v + 1) / 2));
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = paper[c] + depth * (ink[c] - paper[c]);
    image.data[4 * i + 3] = 255;
  });
  return image;
}
