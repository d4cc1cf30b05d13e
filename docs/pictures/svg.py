"""Build small SVG pictures as text: shapes with named colours, in a light and a dark theme.

Text is placed with an upper bound of its width, so that a generator can refuse a picture whose text would be clipped.
The bound uses the advance widths of DejaVu Sans, which is wider than Helvetica, Arial and the usual system fonts.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

FONT_SIZE = 13
BOLD_FACTOR = 1.25  # no printable ASCII character of DejaVu Sans Bold is wider than this multiple of the regular one
OTHER_CHARACTER = 1.1  # em; the widest Cyrillic letter of DejaVu Sans is 1.09, arrows and dashes are narrower
# DejaVu Sans advance widths in 1/1000 em, for the characters from space (32) to tilde (126).
_WIDTHS = (
    *(318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337),
    *(636, 636, 636, 636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531),
    *(1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863, 748, 787),
    *(603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500),
    *(500, 613, 635, 550, 635, 615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612),
    *(635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636, 337, 636, 838),
)

# Class name: colour in the light theme, colour in the dark theme.
COLOURS = {
    "paper": ("#ffffff", "#0d1117"),
    "edge": ("#d0d7de", "#3d444d"),
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9aa4af"),
    "faint": ("#eef1f4", "#1c232c"),
    "soft": ("#d9dee4", "#343c46"),
    "local": ("#1f7a5c", "#3fb68b"),
    "global": ("#d97706", "#f0a04b"),
    "peer": ("#aab2bb", "#66707b"),
    "frame": ("#f6f8fa", "#151b23"),
}


def text_width(words: str, *, size: float = FONT_SIZE, bold: bool = False) -> float:
    """Return an upper bound, in user units, of the width of `words` in a common sans-serif font."""
    ems = sum(_WIDTHS[ord(c) - 32] / 1000 if 32 <= ord(c) <= 126 else OTHER_CHARACTER for c in words)
    return ems * size * (BOLD_FACTOR if bold else 1.0)


def page(width: int, height: int, shapes: Sequence[str], *, title: str) -> str:
    """Return a complete SVG document with `title` for screen readers. It has an opaque background in both themes."""
    light, dark = (
        " ".join(
            f".{name}{{fill:{pair[theme]}}}.line-{name}{{stroke:{pair[theme]};fill:none}}"
            for name, pair in COLOURS.items()
        )
        for theme in (0, 1)
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, DejaVu Sans, sans-serif" '
        f'font-size="{FONT_SIZE}" role="img">'
    )
    style = f"<style>{light} @media (prefers-color-scheme: dark){{{dark}}}</style>"
    border = (
        f'<rect class="edge" width="{width}" height="{height}" rx="8"/>'
        f'<rect class="paper" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="7"/>'
    )
    return "\n".join([head, f"<title>{escape(title)}</title>", style, border, *shapes, "</svg>", ""])


def text(
    x: float,
    y: float,
    words: str,
    *,
    colour: str = "ink",
    size: float = FONT_SIZE,
    bold: bool = False,
    anchor: str = "start",
) -> str:
    """Return a line of text whose baseline is at `y`; `anchor` is start, middle or end."""
    extra = f' font-size="{_short(size)}"' if size != FONT_SIZE else ""
    extra += ' font-weight="600"' if bold else ""
    extra += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{colour}" x="{_short(x)}" y="{_short(y)}"{extra}>{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, colour: str, *, radius: float = 0) -> str:
    """Return a filled rectangle."""
    corner = f' rx="{_short(radius)}"' if radius else ""
    size = f'width="{_short(width)}" height="{_short(height)}"'
    return f'<rect class="{colour}" x="{_short(x)}" y="{_short(y)}" {size}{corner}/>'


def box(x: float, y: float, width: float, height: float, *, colour: str = "edge", fill: str = "frame") -> list[str]:
    """Return a filled rectangle with rounded corners and a thin border."""
    outline = (
        f'<rect class="line-{colour}" x="{_short(x)}" y="{_short(y)}" width="{_short(width)}" '
        f'height="{_short(height)}" rx="6"/>'
    )
    return [rect(x, y, width, height, fill, radius=6), outline]


def line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = "muted", width: float = 1.2, dashed: bool = False
) -> str:
    """Return a straight line."""
    dash = ' stroke-dasharray="3 3"' if dashed else ""
    ends = f'x1="{_short(x1)}" y1="{_short(y1)}" x2="{_short(x2)}" y2="{_short(y2)}"'
    return f'<line class="line-{colour}" {ends} stroke-width="{_short(width)}"{dash}/>'


def arrow(x1: float, y1: float, x2: float, y2: float, *, colour: str = "muted") -> list[str]:
    """Return a straight arrow to (`x2`, `y2`)."""
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    back_x, back_y = x2 - 8 * ux, y2 - 8 * uy
    corners = [(x2, y2), (back_x - 4 * uy, back_y + 4 * ux), (back_x + 4 * uy, back_y - 4 * ux)]
    points = " ".join(f"{_short(x)},{_short(y)}" for x, y in corners)
    return [line(x1, y1, back_x, back_y, colour=colour), f'<polygon class="{colour}" points="{points}"/>']


def _short(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
