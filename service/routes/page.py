"""The web page: the files of the folder `web`, sent as they lie there under a policy that lets them ask this service only."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from service.errors import NotFound

router = APIRouter(include_in_schema=False)

WEB = Path(__file__).resolve().parent.parent / "web"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # The browser keeps the files and asks each time whether they are still these: a new version is never half loaded.
    "Cache-Control": "no-cache",
}


@router.api_route("/", methods=["GET", "HEAD"])
def get_page(request: Request) -> Response:
    """Show the page (not async: a file is read)."""
    return _file(request, WEB / "index.html")


@router.api_route("/web/{name}", methods=["GET", "HEAD"])
def get_file(request: Request, name: str) -> Response:
    """Send a file of the page.

    Raises:
        NotFound: the page has no such file.
    """
    path = WEB / name
    if path.suffix not in MEDIA_TYPES or path.parent != WEB or not path.is_file():
        raise NotFound(f"the page has no file {name[:100]!r}")
    return _file(request, path)


def _file(request: Request, path: Path) -> Response:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}
    if tag in (each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[path.suffix])
