"""HTML from the templates of the package (`templates/*.html.jinja`), and figures in it."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_DPI = 130
_MARGIN = 0.04  # inches around a panel
_WIDE = 500  # points; wider pictures keep a size in which they can be read, and scroll
_MANY = 2000  # dots that are drawn one by one
_SVG: Any = {"svg.fonttype": "none", "svg.hashsalt": "raynas"}  # text as text; the same each time
#: black becomes the color of the page's text; ids that nothing refers to are the same in all
_PLAIN = (
    (re.compile(r"^.*?(?=<svg)", re.DOTALL), ""),
    (re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"stroke: #000000"), "stroke: currentColor"),
    (re.compile(r"'DejaVu Sans'[^;\"]*"), "sans-serif"),
    (re.compile(r' id="[A-Za-z0-9.]+_[0-9]+"'), ""),
    (re.compile(r"\n\s*"), " "),
)


def render(template: str, **values: Any) -> Markup:
    """Return `templates/<template>.html.jinja` filled in; text among the values is escaped."""
    return Markup(_ENVIRONMENT.get_template(f"{template}.html.jinja").render(values))


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def svg(figure: Figure, title: str) -> Markup:
    """Return a figure as inline SVG, each of its panels a picture, so that a phone shows them too.

    Args:
        figure: without a background; what is black in it gets the color of the page's text.
        title: what is to be seen, for those who do not see it.
    """
    for axes in figure.axes:
        for points in axes.collections:  # thousands of dots would make a page of megabytes
            points.set_rasterized(np.size(points.get_offsets()) > 2 * _MANY)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # panels stay where they are when the others go
    pictures = [_picture(figure, panel, title) for panel in _shown_alone(figure)]
    return Markup('<div class="figures">{}</div>').format(Markup("").join(pictures))


def _shown_alone(figure: Figure) -> Iterator[Sequence[Artist]]:
    """Hide all but one part after the other, and yield what it consists of.

    A panel goes with its color bar; where panels share one, they all stay together.
    """
    panels = [axes for axes in figure.axes if axes.axison]
    bars = [axes for axes in panels if axes.get_label() == "<colorbar>"]
    alone = [axes for axes in panels if axes not in bars]
    if bars and len(bars) < len(alone):
        yield figure.axes
        return
    columns = (alone, bars) if bars else (alone,)
    parts: list[Sequence[Artist]] = [*([legend] for legend in figure.legends)]
    parts += zip(*columns, strict=True)
    for part in parts:
        for others in parts:
            for artist in others:
                artist.set_visible(others is part)
        yield part
    for part in parts:
        for artist in part:
            artist.set_visible(True)


def _picture(figure: Figure, part: Sequence[Artist], title: str) -> Markup:
    """Return what is to be seen of a figure now, cut to a part of it, as SVG."""
    windows = [window for artist in part if (window := artist.get_tightbbox()) is not None]
    inches = Bbox.union(windows).transformed(figure.dpi_scale_trans.inverted())
    box = Bbox(inches).padded(_MARGIN)
    buffer = io.StringIO()
    with matplotlib.rc_context(_SVG):
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            bbox_inches=box,
            dpi=_DPI,
            metadata={"Date": None},
        )
    text = buffer.getvalue()
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    kind = ' class="wide"' if 72 * box.width > _WIDE else ""
    label = escape(title)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{label}"{kind} ', 1))


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("raynas.reports"), autoescape=True, undefined=jinja2.StrictUndefined
)
_ENVIRONMENT.filters.update(percent="{:.2%}".format, integer="{:,}".format, svg=svg)
