"""The board's style sheet and scripts, and plotly.js out of its wheel: in memory, packed, named by their content."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response

from many_models.errors import MissingDependencyError

if TYPE_CHECKING:
    from starlette.requests import Request

KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
PLOTLY = "plotly.min.js"


@dataclass(slots=True)
class StaticFiles:
    """Addresses and contents of the files that pages load."""

    _found: dict[str, Path] = field(default_factory=dict[str, Path])
    _urls: dict[str, str] = field(default_factory=dict[str, str])
    _packed: dict[str, bytes] = field(default_factory=dict[str, bytes])

    def __post_init__(self) -> None:
        own = Path(str(files("many_models.board") / "static"))
        self._found = {path.name: path for path in own.iterdir() if path.suffix in KINDS} | {PLOTLY: _plotly()}
        for name, path in self._found.items():
            self._urls[name] = f"/static/{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}/{name}"

    def url(self, name: str) -> str:
        """The address of a file, another one for each content."""
        return self._urls[name]

    def answer(self, request: Request, name: str, digest: str) -> Response:
        """A file, which a browser may keep for ever; of the content that the address names, or none."""
        path = self._found.get(name)
        if path is None or self._urls[name] != f"/static/{digest}/{name}":
            return Response("there is no such file", 404)
        headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(path.read_bytes(), media_type=KINDS[path.suffix], headers=headers)
        if name not in self._packed:
            self._packed[name] = gzip.compress(path.read_bytes(), 6)
        headers["content-encoding"] = "gzip"
        return Response(self._packed[name], media_type=KINDS[path.suffix], headers=headers)


def _plotly() -> Path:
    """plotly.js in the Python package's wheel, which is not imported for it."""
    spec = find_spec("plotly")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "package_data" / PLOTLY).is_file():
            return path
    raise MissingDependencyError("plotly is not installed: pip install 'many_models[board]'")
