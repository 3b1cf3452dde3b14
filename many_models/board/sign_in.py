"""Signing in with an API key, and out."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from many_models.board.access import SignInError
from many_models.board.pages import form_of

if TYPE_CHECKING:
    from fastapi import FastAPI

    from many_models.board.pages import Board


def add_routes(app: FastAPI, board: Board) -> None:
    """The page to sign in on, and what its form and the one in the head of each page do."""

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

    @app.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        with suppress(SignInError):
            board.access.check_form(board.access.user(request), request, await form_of(request))
        request.session.clear()
        return RedirectResponse("/sign-in", 303)


def own_path(to: str) -> str:
    """`to` where it is a page of the board: nobody is led elsewhere by signing in."""
    plain = to.startswith("/") and not to.startswith(("//", "/\\")) and all(char.isprintable() for char in to)
    return to if plain and len(to) < 4_000 else "/"
