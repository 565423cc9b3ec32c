"""HTML from the templates of the package (`templates/*.html.jinja`)."""

import base64
from typing import Any

import jinja2
from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """Return `templates/<template>.html.jinja` filled in; text among the values is escaped."""
    return Markup(_ENVIRONMENT.get_template(f"{template}.html.jinja").render(values))


def _png(image: bytes) -> str:
    """Return a PNG file as an address, so that a page needs no file beside it."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("raynas.reports"), autoescape=True, undefined=jinja2.StrictUndefined
)
_ENVIRONMENT.filters.update(percent="{:.2%}".format, integer="{:,}".format, png=_png)
