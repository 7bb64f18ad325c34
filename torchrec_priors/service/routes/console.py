"""GET /: the console, a page that shows recommendations while levers are moved.

The page is one response without any other resource. Its Content-Security-Policy lets only the
style and the script run that the page has here, by their hashes, and lets it call only this
service.
"""

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import FastAPI
from starlette.responses import Response

_FOLDER = files("torchrec_priors.service") / "console"
# In this order they are one script.
_SCRIPTS = ("elements", "service", "search", "history", "levers", "lists", "address", "page")


@dataclass(frozen=True)
class Page:
    """The page.

    Attributes:
        html: its bytes.
        policy: its Content-Security-Policy.
    """

    html: bytes
    policy: str


@cache
def page() -> Page:
    """Puts the page together."""
    html = _text("page.html")
    style = _text("page.css")
    script = "\n".join(_text(f"script/{name}.js") for name in _SCRIPTS)
    policy = (
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    html = html.replace("{{style}}", style).replace("{{script}}", script)
    return Page(html.encode(), "; ".join(policy))


def add(app: FastAPI) -> None:
    """Adds the route to the service."""
    headers = {
        "Content-Security-Policy": page().policy,
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }

    @app.get("/", include_in_schema=False)
    async def console() -> Response:
        """Returns the page."""
        return Response(page().html, media_type="text/html", headers=headers)


def _text(name: str) -> str:
    """Returns the text of a file of the console."""
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """Returns the source expression of an inline style or script."""
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"
