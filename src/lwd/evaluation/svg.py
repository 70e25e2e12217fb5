"""Draw matplotlib figures as inline SVG that follows the page's light or dark theme.

Figures use placeholder colours; in the SVG each becomes a CSS variable of the page (`var(--ink)`), so one
drawing is legible in both themes. Text stays text: it can be searched, and needs no embedded font.
"""

import html
import io
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"
MUTED = "#020304"
GRID = "#030405"
SURFACE = "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
"""Placeholders of --series-1 ... --series-6."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, start=1)
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    # Images keep their own pixels; composed, they would be resampled to the figure's 72 dots per inch.
    "image.composite_image": False,
    "image.interpolation": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def palette() -> str:
    """The CSS that gives the variables their values, in the reader's light or dark theme."""
    return files("lwd.evaluation").joinpath("palette.css").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One figure of the report."""

    svg: str
    caption: str
    """Plain text: what is drawn, and how to read it."""
    description: str
    """One sentence for screen readers."""

    def as_file(self) -> str:
        """The drawing as an SVG file of its own, with our colours and a background."""
        head, _, rest = self.svg.partition(">")
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        title, style = html.escape(self.description), palette()
        return (
            f'{head} {spaces} width="960">\n<title>{title}</title>\n<style>{style}</style>\n'
            f'<rect width="100%" height="100%" style="fill: var(--surface)"/>{rest}\n'
        )


class Canvas:
    """A figure with our style, open inside a `with` block; `svg()` renders it."""

    def __init__(self, name: str, *, width: float = 10.0, height: float = 3.0) -> None:
        """Open a figure.

        Args:
            name: unique on the page; the SVG's identifiers derive from it (so equal runs give equal pages).
            width: inches; the page scales the figure to the column.
            height: inches.
        """
        settings: Any = {**_STYLE, "svg.hashsalt": name}
        self._context = matplotlib.rc_context(settings)
        self._name = name
        self._size = (width, height)

    def __enter__(self) -> "Canvas":
        self._context.__enter__()
        self.figure = Figure(figsize=self._size, layout="constrained")
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(None, None, None)

    def axes(self, columns: int = 1, rows: int = 1, **options: Any) -> list[Axes]:
        """A grid of panels, row by row; options are those of `Figure.subplots`."""
        return list(self.figure.subplots(rows, columns, **{**options, "squeeze": False}).flat)

    def svg(self) -> str:
        """Render as an inline SVG element whose colours are the page's CSS variables."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, f"var({variable})")
        # Matplotlib names groups figure_1, axes_1: identifiers must be unique on the page.
        text = re.sub(r'\bid="([A-Za-z][A-Za-z0-9.]*_\d+)"', rf'id="{self._name}-\1"', text)
        text = re.sub(r'^<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)
        # Matplotlib writes the font into every text element; the page's own sans-serif reads better.
        return re.sub(r"'DejaVu Sans'", "var(--font)", text)
