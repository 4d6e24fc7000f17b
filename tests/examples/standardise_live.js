// A live element: shifted numbers, whose standardised ones stay where they are. The example of book/contributing.md.

const NUMBERS = [1, 2, 4, 5];

export default function build(stage, options) {
  stage.innerHTML = `
    <label>Shift <input type="range" min="-5" max="5" step="0.5" value="${options.shift ?? 0}"></label>
    <output role="status"></output>`;
  const slider = stage.querySelector("input"), output = stage.querySelector("output");
  const mean = (numbers) => numbers.reduce((sum, number) => sum + number) / numbers.length;

  function show() {
    const x = NUMBERS.map((number) => number + slider.valueAsNumber);
    const centre = mean(x), spread = Math.sqrt(mean(x.map((number) => (number - centre) ** 2)));
    const z = x.map((number) => ((number - centre) / spread).toFixed(2));
    output.textContent = `The mean is ${centre.toFixed(1)}; standardised: ${z.join(", ")}.`;
  }

  slider.addEventListener("input", show);
  show();
}
