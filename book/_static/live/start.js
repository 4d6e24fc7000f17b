// Makes the page's live elements live, each when it comes into view. Until then, and where it fails, its picture stands.

const MODULES = {
  two_dimensions: () => import("./two_dimensions.js"),
  digits: () => import("./digits.js"),
  noise_levels: () => import("./noise_levels.js"),
  finish: () => import("./finish.js"),
};

async function begin(element) {
  element.classList.add("live-loading");
  try {
    const { default: build } = await MODULES[element.dataset.live]();
    const stage = document.createElement("div");
    stage.className = "live-stage";
    await build(stage, JSON.parse(element.dataset.options || "{}"), element);
    element.querySelector(".live-still").after(stage);
    element.classList.add("live-on");
    stage.dispatchEvent(new Event("shown"));
  } catch (error) {
    failed(element, error);
  } finally {
    element.classList.remove("live-loading");
  }
}

function failed(element, error) {
  const message = document.createElement("p");
  message.className = "live-failed";
  message.setAttribute("role", "status");
  message.textContent =
    `This did not load (${error.message}). Check the connection and reload the page; the picture shows what it does. ` +
    "It needs a browser of 2023 or later.";
  element.querySelector(".live-still").after(message);
}

const elements = document.querySelectorAll(".live[data-live]");
const watch = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watch.unobserve(target);
    begin(target);
  }
}, { rootMargin: "150px" });
for (const element of elements) watch.observe(element);

// A shared address leads to the element that it sets up.
if (/[#&]seed=/.test(location.hash)) document.querySelector('.live[data-live="digits"]')?.scrollIntoView();
