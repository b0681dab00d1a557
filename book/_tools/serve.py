"""Serve the built book as its host does: compressed, and with the 404 page.

`python book/_tools/serve.py [PORT]` serves `_build/html`. The 404 page names its files by their
full path on the host, so every address also works behind any first folder.
"""

import gzip
import mimetypes
import sys
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
COMPRESSED = ("text/", "image/svg", "application/javascript", "application/json")


@cache
def compressed(path: Path, changed: int) -> bytes:
    """Return a file's contents compressed, once for each time that it changed."""
    return gzip.compress(path.read_bytes(), 6)


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from a folder."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: object, site: Path) -> None:
        self.site = site
        super().__init__(*arguments)

    def find(self) -> Path | None:
        """Return the file that is asked for: as it stands, or without the first folder."""
        asked = unquote(urlsplit(self.path).path).lstrip("/")
        if ".." in asked.split("/"):
            return None
        for name in (asked, asked.partition("/")[2] if "/" in asked else asked):
            path = self.site / name
            path = path / "index.html" if path.is_dir() else path
            if path.is_file():
                return path
        return None

    def do_GET(self) -> None:
        """Send a file, or the 404 page."""
        found = self.find()
        path = found or self.site / "404.html"
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        zipped = kind.startswith(COMPRESSED) and "gzip" in self.headers.get("Accept-Encoding", "")
        body = compressed(path, path.stat().st_mtime_ns) if zipped else path.read_bytes()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if "text/" in kind else kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=600")
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Keep quiet."""


def server(site: Path = SITE, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the folder on this machine, at any free port if none is named."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, site=site))


if __name__ == "__main__":
    with server(port=int(sys.argv[1]) if sys.argv[1:] else 8000) as running:
        print(f"Reading at http://127.0.0.1:{running.server_port}/ (Ctrl-C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
