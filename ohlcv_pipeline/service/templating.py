"""Pages from the templates in `templates/`: everything is escaped, a missing value is an error."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ohlcv_pipeline.service import views
from ohlcv_pipeline.version import __version__

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(views.FILTERS)
_TEMPLATES.globals.update(version=__version__, labels=views, columns=views.COLUMNS)


def render(template: str, **values: object) -> HTMLResponse:
    """Return a page."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values))
