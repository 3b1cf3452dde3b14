"""The board as an application: its routes, put together."""

from __future__ import annotations

import secrets
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from many_models.board import group_page, item_page, items_page, proposal_page, sign_in, tonight_page
from many_models.board.access import NAME, Access, ForbiddenError, SignInError
from many_models.board.catalogue import Catalogue
from many_models.board.entra import BrowserSignIn
from many_models.board.headers import Headers
from many_models.board.pages import Board, with_query
from many_models.board.static_files import StaticFiles

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.middleware.base import RequestResponseEndpoint

    from many_models.board.access import Keys
    from many_models.board.handed_in import Operations, Stores
    from many_models.settings import Settings


def build_board(settings: Settings, stores: Stores, operations: Operations, keys: Keys, *, is_open: bool) -> FastAPI:
    """The board as an ASGI application. Raises SettingsError where it would be left open to a network, or shut."""
    access = Access(settings, keys, is_open=is_open)
    catalogue = Catalogue(settings, stores.lake, stores.warehouse)
    entra = BrowserSignIn(settings, keys.client_secret) if access.by_entra else None
    board = Board(settings, stores, operations, access, catalogue, StaticFiles(), entra)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        threading.Thread(target=board.warm, daemon=True, name="warm").start()
        if stores.service is not None:
            await stores.service.start()
        yield
        if stores.service is not None:
            await stores.service.stop()

    app = FastAPI(
        title="many_models board",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.board = board
    for page in (tonight_page, items_page, item_page, group_page, proposal_page, sign_in):
        page.add_routes(app, board)
    _add_files(app, board)
    _add_problems(app, board)
    _add_check_of_host(app, access)
    https = settings.board.url.startswith("https://")
    app.add_middleware(
        SessionMiddleware,
        secret_key=secrets.token_hex(32),
        session_cookie=NAME,
        same_site="lax",
        https_only=https,
        max_age=int(settings.board.session_hours * 3600),
    )
    app.add_middleware(GZipMiddleware, minimum_size=2_000, compresslevel=4)
    app.add_middleware(Headers)
    return app


def _add_files(app: FastAPI, board: Board) -> None:
    @app.get("/static/{digest}/{name}")
    def static(request: Request, digest: str, name: str) -> Response:
        return board.static.answer(request, name, digest)

    @app.get("/health/live")
    def alive() -> dict[str, str]:
        return {"status": "alive"}


def _add_check_of_host(app: FastAPI, access: Access) -> None:
    @app.middleware("http")
    async def check_host(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            access.check_host(request.headers.get("host", ""))
        except ForbiddenError as error:
            return Response(str(error.detail), 403)
        return await call_next(request)


def _add_problems(app: FastAPI, board: Board) -> None:
    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        """A page, or one line for programs; who is not signed in is sent to sign in first."""
        wants_page = "text/html" in request.headers.get("accept", "")
        if not wants_page:
            return Response(str(error.detail), error.status_code, error.headers, "text/plain")
        if isinstance(error, SignInError):
            asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/sign-in?{with_query([], to=asked)}", 303)
        try:
            user = board.access.user(request)
        except SignInError:
            user = None
        return board.page(request, "problem.html", user, error.status_code, reason=str(error.detail), near=())
