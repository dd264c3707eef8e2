"""HTML from the package's own templates, every value escaped."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orthogon.report import colours


def render(template: str, **content: Any) -> str:
    """A page from one of the package's templates; everything that is put in is escaped."""
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> Environment:
    loader = PackageLoader("orthogon.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = environment.get_template("style.css").render()
    environment.globals["style"] = Markup(style + colours.style_rules())
    return environment
