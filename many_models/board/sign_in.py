"""Signing in with an API key or at Entra ID, and out."""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from many_models.board.access import SignInError
from many_models.board.entra import FLOW
from many_models.board.pages import form_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from many_models.board.pages import Board


def add_routes(app: FastAPI, board: Board) -> None:
    """Add the page to sign in on, and what its form and the one in the head of each page do."""

    @app.get("/sign-in")
    def sign_in(request: Request, to: str = "/") -> Response:
        if board.access.is_open:
            return RedirectResponse("/", 303)
        return board.page(request, "sign_in.html", None, to=own_path(to), refused=False)

    @app.post("/sign-in")
    async def with_key(request: Request) -> Response:
        form = await form_of(request)
        key, to = form.get("key", "").strip(), own_path(form.get("to", "/"))
        if board.access.of_key(key) is None:
            return board.page(request, "sign_in.html", None, 401, to=to, refused=True)
        request.session.clear()
        request.session.update(key=hashlib.sha256(key.encode()).hexdigest(), token=secrets.token_urlsafe(24))
        return RedirectResponse(to, 303)

    if board.access.by_entra:
        _add_entra(app, board)

    @app.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        with suppress(SignInError):
            board.access.check_form(board.access.user(request), request, await form_of(request))
        request.session.clear()
        return RedirectResponse("/sign-in", 303)


def _add_entra(app: FastAPI, board: Board) -> None:
    """To Entra ID, and back from there."""
    entra = board.entra
    assert entra is not None

    @app.get("/sign-in/entra")
    def to_entra(request: Request, to: str = "/") -> Response:
        url, flow = entra.begin(_callback(board, request), own_path(to))
        request.session.clear()
        request.session[FLOW] = flow
        return RedirectResponse(url, 303)

    @app.get("/sign-in/entra/callback")
    async def from_entra(request: Request) -> Response:
        flow: dict[str, Any] = request.session.pop(FLOW, {})
        token = await run_in_threadpool(entra.fetch, _callback(board, request), flow, dict(request.query_params))
        account = await entra.account(token, str(flow["nonce"]))
        request.session.clear()
        request.session.update(
            name=account.name,
            names=list(account.names),
            approver=account.approver,
            token=secrets.token_urlsafe(24),
            until=time.time() + board.settings.board.session_hours * 3600,
        )
        return RedirectResponse(str(flow["to"]), 303)


def _callback(board: Board, request: Request) -> str:
    """Where Entra ID sends the browser back to, as the application is registered there."""
    base = board.settings.board.url or str(request.base_url).rstrip("/")
    return f"{base}/sign-in/entra/callback"


def own_path(to: str) -> str:
    """`to` where it is a page of the board: signing in leads no person elsewhere."""
    plain = to.startswith("/") and not to.startswith(("//", "/\\")) and all(char.isprintable() for char in to)
    return to if plain and len(to) < 4_000 else "/"
