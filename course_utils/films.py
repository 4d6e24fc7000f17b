"""A picture or a film as a cell's result: with a text for those who do not see it, in a notebook and on the site."""

import base64
import hashlib
import io
import math
from html import escape

import numpy as np

DPI, DENSITY = 160, 1.6  # dots an inch, and dots for a pixel of the screen


class Picture:
    """A picture with its text, in a notebook and on the site.

    `color`: are there colours to keep? `photo`: are they those of things, which stay as they are where the page is dark
    (by default all colours are)?
    """

    def __init__(self, image, alt, color=False, photo=None):
        self.image, self.alt, self.color = image, alt, color
        self.photo = color if photo is None else photo

    def _repr_mimebundle_(self, include=None, exclude=None):
        image = png(self.image if self.color else self.image.convert("L"))  # nearly a third smaller
        form, shown = ("webp", smallest_webp(self.image)) if self.color else ("png", image)  # up to six times smaller
        kind = "picture photo" if self.photo else "picture"  # the site turns no photo's colours over in the dark
        html = (
            f'<img class="{kind}" alt="{escape(self.alt, quote=True)}" width="{round(self.image.width / DENSITY)}" '
            f'style="max-width: 100%; height: auto" src="data:image/{form};base64,{base64.b64encode(shown).decode()}">'
        )
        return {"text/html": html, "image/png": image, "text/plain": f"[picture: {self.alt}]"}


class Animation:
    """A film with a play button and a slider, in a notebook and on the site; where scripts are off, a still."""

    def __init__(self, frames, alt, seconds, still, color=False):
        self.frames, self.alt, self.seconds, self.still, self.color = frames, alt, seconds, still, color

    def _repr_mimebundle_(self, include=None, exclude=None):
        image = png(self.frames[self.still])
        return {"text/html": self.to_html(), "image/png": image, "text/plain": f"[animation: {self.alt}]"}

    def to_html(self):
        """All frames in one picture of which the page shows a part: it needs no file beside the page."""
        from PIL import Image

        n, (width, height) = len(self.frames), self.frames[0].size
        columns = math.ceil(math.sqrt(n))
        rows = math.ceil(n / columns)
        sheet = Image.new("RGB", (columns * width, rows * height), "white")
        for i, frame in enumerate(self.frames):
            sheet.paste(frame, (i % columns * width, i // columns * height))
        picture = webp(sheet, quality=50)
        values = {
            "ID": "film-" + hashlib.sha256(picture).hexdigest()[:10],
            "ALT": escape(self.alt, quote=True),
            "CLASS": "film-screen photo" if self.color else "film-screen",
            "WIDTH": round(width / DENSITY),
            "RATIO": f"{width} / {height}",
            "SIZE": f"{columns * 100}% {rows * 100}%",
            "POSITION": _position(self.still, columns, rows),
            "STILL": self.still,
            "LAST": n - 1,
            "POSITIONS": str([_position(i, columns, rows) for i in range(n)]),
            "DELAY": round(1000 * self.seconds / n),
            "PICTURE": base64.b64encode(picture).decode(),
        }
        return filled(_FILM, values)


def check_alt(alt, what):
    if not alt:
        raise ValueError(f"{what} needs an alt text: a sentence that says what it shows")


def chosen_frames(n_states, n_frames):
    """Which states a film shows: the first, the last, and others evenly between."""
    if n_frames < 2:
        raise ValueError(f"n_frames = {n_frames}; a film has at least two frames")
    return np.unique(np.linspace(0, n_states - 1, min(n_frames, n_states)).round().astype(int))


def frame_of(figure):
    """What a matplotlib figure shows now, as a PIL image."""
    from PIL import Image

    if not hasattr(figure.canvas, "buffer_rgba"):  # a figure that pyplot does not know
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def png(image):
    """The bytes of a PIL image as a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def webp(image, quality, lossless=False):
    """The bytes of a PIL image as a WebP of this quality, 0 to 100."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality, method=4, lossless=lossless)
    return file.getvalue()


def smallest_webp(image):
    """A WebP in which no loss is seen: without any where that is smaller, as for grids of small images."""
    return min(webp(image, 60, lossless=True), webp(image, 90), key=len)


def filled(template, values):
    """The template with each @NAME@ replaced by its value."""
    for name, value in values.items():
        template = template.replace(f"@{name}@", str(value))
    return template


def _position(i, columns, rows):
    column, row = i % columns, i // columns
    return f"{100 * column / max(columns - 1, 1):.4g}% {100 * row / max(rows - 1, 1):.4g}%"


_FILM = """<figure class="film" id="@ID@" style="width: @WIDTH@px; max-width: 100%; margin: 0">
<div class="@CLASS@" role="img" aria-label="@ALT@" style="aspect-ratio: @RATIO@; background: #fff
 url(data:image/webp;base64,@PICTURE@) @POSITION@ / @SIZE@; print-color-adjust: exact"></div>
<div class="film-controls" hidden style="display: none; gap: .6em; align-items: center">
<button type="button" style="min-width: 5em">Play</button>
<input type="range" min="0" max="@LAST@" value="@STILL@" aria-label="Time" style="flex: 1">
</div>
<script>(() => {
  const film = document.getElementById("@ID@"), screen = film.querySelector(".film-screen");
  const controls = film.querySelector(".film-controls"), button = film.querySelector("button");
  const slider = film.querySelector("input"), positions = @POSITIONS@;
  let timer = null;
  const show = i => { slider.value = i; screen.style.backgroundPosition = positions[i]; };
  const label = playing => { button.textContent = playing ? "Pause" : "Play"; };
  const stop = () => { clearInterval(timer); timer = null; label(false); };
  const play = () => { if (+slider.value >= @LAST@) show(0); label(true);
    timer = setInterval(() => +slider.value >= @LAST@ ? stop() : show(+slider.value + 1), @DELAY@); };
  controls.hidden = false; controls.style.display = "flex";
  button.onclick = () => timer ? stop() : play();
  slider.oninput = () => { stop(); show(+slider.value); };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches && "IntersectionObserver" in window)
    new IntersectionObserver((seen, watch) => { if (seen[0].isIntersecting) { watch.disconnect(); show(0); play(); } },
      { threshold: 0.6 }).observe(screen);
})()</script>
</figure>"""
