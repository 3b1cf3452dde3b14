"""Signing in with Entra ID in a browser: authorization code with PKCE, state and nonce, by Authlib."""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from many_models.board.access import ForbiddenError
from many_models.errors import SettingsError
from many_models.serving.auth import DeniedError, Entra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authlib.integrations.requests_client import OAuth2Session

    from many_models.settings import Settings

FLOW, FLOW_SECONDS = "flow", 600.0  # in the session, between the two requests of signing in
SCOPES = "openid profile"
TOKEN_SECONDS = 10.0  # that Entra ID may take to change a code into a token
MOST_NAMES = 60  # roles and groups that are kept in the cookie


@dataclass(frozen=True, slots=True)
class Account:
    """Who has signed in: a name for people, the names that the file of rows may have, whether they may approve."""

    name: str
    names: tuple[str, ...]
    approver: bool


class BrowserSignIn:
    """The two steps. Raises SettingsError where tenant or client are missing."""

    def __init__(self, settings: Settings, client_secret: str = "") -> None:
        board, serve = settings.board, settings.serve
        if not serve.entra_tenant:
            raise SettingsError("board.entra_client is set: serve.entra_tenant is needed, too")
        self._client, self._secret = board.entra_client, client_secret
        self._base = board.entra_authority or f"https://login.microsoftonline.com/{serve.entra_tenant}"
        self._tokens = Entra(serve.model_copy(update={"entra_audience": board.entra_client, "entra_roles": []}))
        self._readers, self._approver = set(serve.entra_roles), board.approver_role

    def _session(self, redirect: str) -> OAuth2Session:
        from authlib.integrations.requests_client import OAuth2Session

        way = "client_secret_post" if self._secret else "none"
        return OAuth2Session(
            self._client,
            self._secret or None,
            token_endpoint_auth_method=way,
            scope=SCOPES,
            redirect_uri=redirect,
            code_challenge_method="S256",
        )

    def begin(self, redirect: str, to: str) -> tuple[str, dict[str, Any]]:
        """Where to send the browser, and what the session keeps until it comes back."""
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
        url, state = self._session(redirect).create_authorization_url(
            f"{self._base}/oauth2/v2.0/authorize", code_verifier=verifier, nonce=nonce, response_mode="query"
        )
        return url, {
            "state": state,
            "nonce": nonce,
            "verifier": verifier,
            "to": to,
            "until": time.time() + FLOW_SECONDS,
        }

    def fetch(self, redirect: str, flow: Mapping[str, Any], answer: Mapping[str, str]) -> str:
        """The identity token for the code that the browser brings back. Raises ForbiddenError."""
        state = answer.get("state", "")
        known = hmac.compare_digest(state.encode(), str(flow.get("state", "")).encode()) and bool(state)
        if not known or time.time() > float(flow.get("until", 0)):
            raise ForbiddenError("this sign-in was not begun here, or took too long: sign in again")
        if "code" not in answer:
            raise ForbiddenError(f"Entra ID did not sign you in: {answer.get('error', 'no code')[:100]}")
        try:
            told = self._session(redirect).fetch_token(
                f"{self._base}/oauth2/v2.0/token",
                code=answer["code"],
                code_verifier=str(flow["verifier"]),
                timeout=TOKEN_SECONDS,
            )
        except Exception as error:  # an odd answer may break the library anywhere: the person is not signed in
            raise ForbiddenError(f"Entra ID gave no token: {type(error).__name__}; sign in again") from error
        if not isinstance(token := told.get("id_token"), str):
            raise ForbiddenError("Entra ID gave no identity: the application needs the scope openid")
        return token

    async def account(self, token: str, nonce: str) -> Account:
        """Whose identity token that is. Raises ForbiddenError."""
        try:
            claims = await self._tokens.claims(token.encode())
        except DeniedError as error:
            raise ForbiddenError(str(error)) from error
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise ForbiddenError("this identity belongs to another sign-in: sign in again")
        roles = _texts(claims.get("roles"))
        approver = self._approver in roles
        if self._readers and not approver and not self._readers & set(roles):
            raise ForbiddenError(f"you have none of the roles {', '.join(sorted(self._readers))}")
        own = [claims[name] for name in ("preferred_username", "oid") if isinstance(claims.get(name), str)]
        names = tuple(dict.fromkeys([*own, *roles, *_texts(claims.get("groups"))]))[:MOST_NAMES]
        name = str(claims.get("preferred_username") or claims.get("name") or claims.get("oid") or "somebody")
        return Account(name, names, approver)


def _texts(claim: object) -> list[str]:
    return [one for one in claim if isinstance(one, str)] if isinstance(claim, list) else []
