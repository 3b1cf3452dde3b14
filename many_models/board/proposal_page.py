"""What waits for approval: its differences from what is live, and the form that approves or rejects it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from many_models.board.access import ForbiddenError
from many_models.board.pages import form_of
from many_models.board.reading import Reading
from many_models.board.releases import of_own
from many_models.errors import ManyModelsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

    from many_models.board.pages import Board

WORST = 20
LONGEST_REASON = 500


def add_routes(app: FastAPI, board: Board) -> None:
    """Add the page of the proposal, and its form."""

    @app.get("/proposal")
    def proposal(request: Request, said: str = "") -> Response:
        user = board.access.user(request)
        items = board.catalogue.items()
        reading = Reading()
        waiting = reading.part("production registry", board.waiting, None)
        own = board.own(user, items)
        if own is not None:
            waiting = of_own(waiting, own)
        decisions = [] if waiting is None else waiting["decisions"]
        return board.page(
            request,
            "proposal.html",
            user,
            waiting=waiting,
            limited=own is not None,
            said=said if said in {"approve", "reject"} else "",
            by_rule=Counter((row["action"], row["rule"]) for row in decisions).most_common(),
            worst=worst_changes(decisions),
            left=[r for r in decisions if r["action"] == "reject"][:WORST],
            missing=reading.missing,
        )

    @app.post("/proposal")
    async def decide(request: Request) -> Response:
        user = board.access.user(request)
        form = await form_of(request)
        board.access.check_form(user, request, form)
        if not user.approver:
            raise ForbiddenError(f"{user.name} may look, but not approve: that takes an approver's key or role")
        verdict, reason = form.get("verdict", ""), form.get("reason", "").strip()[:LONGEST_REASON]
        if verdict not in {"approve", "reject"} or not reason or not form.get("proposal"):
            raise HTTPException(422, "say approve or reject, and why: the reason is kept with the release")
        actor = f"{user.name} (board)"
        try:
            await run_in_threadpool(
                board.operations.decide, form["proposal"], actor=actor, reason=reason, reject=verdict == "reject"
            )
        except ManyModelsError as error:
            board.forget()
            raise HTTPException(409, str(error)) from error
        board.forget()
        return RedirectResponse(f"/proposal?said={verdict}", 303)


def worst_changes(decisions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The promoted series whose new model scored worse than the old one had, the worst first."""
    both = [
        row | {"worse": row["challenger_score"] - row["champion_score"]}
        for row in decisions
        if row["action"] == "promote" and row["challenger_score"] is not None and row["champion_score"] is not None
    ]
    return sorted((row for row in both if row["worse"] > 0), key=lambda row: -row["worse"])[:WORST]
