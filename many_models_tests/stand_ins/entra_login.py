"""A stand-in for Entra ID's sign-in: it refuses a code without its verifier, a second use, and another client."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from many_models_tests.support.running_server import JsonHandler, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANT, CLIENT = "11111111-2222-3333-4444-555555555555", "99999999-8888-7777-6666-555555555555"


@dataclass
class Login:
    """What the next person to sign in is; `claims` change or (None) leave out what their token says."""

    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    secret: str = ""
    redirects: tuple[str, ...] = ()
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    key: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )

    def authorize(self, asked: dict[str, str]) -> tuple[int, str]:
        """The address that the browser is sent back to."""
        needed = {"client_id": CLIENT, "response_type": "code", "code_challenge_method": "S256"}
        wrong = [name for name, value in needed.items() if asked.get(name) != value]
        wrong += [name for name in ("state", "nonce", "code_challenge") if len(asked.get(name, "")) < 16]
        wrong += ["scope"] * ("openid" not in asked.get("scope", "").split())
        wrong += ["redirect_uri"] * (asked.get("redirect_uri") not in self.redirects)
        if wrong:
            self.refused += wrong
            return 400, f"wrong: {wrong}"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        return 302, f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Tokens for a code, once."""
        asked = self.codes.pop(form.get("code", ""), {})
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        good = (
            form.get("grant_type") == "authorization_code" and form.get("client_id") == CLIENT
            and challenge == asked.get("code_challenge") and form.get("redirect_uri") == asked.get("redirect_uri")
            and form.get("client_secret", "") == self.secret
        )  # fmt: skip
        if not good:
            self.refused.append("token")
            return 400, {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "aud": CLIENT, "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0", "tid": TENANT, "exp": now + 600,
            "nbf": now - 60, "nonce": asked["nonce"], "preferred_username": "ada@example.com", "oid": "0a0a",
            **self.claims,
        }  # fmt: skip
        told = {name: value for name, value in claims.items() if value is not None}
        token = jwt.encode(told, self.key, "RS256", headers={"kid": "one"})
        return 200, {"token_type": "Bearer", "expires_in": 600, "access_token": "x", "id_token": token}


@contextmanager
def login() -> Iterator[Login]:
    """The stand-in on a free port."""
    found = Login()

    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            if asked.path == "/keys":
                public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(found.key.public_key()))
                return self.tell(200, {"keys": [{**public, "kid": "one", "use": "sig"}]})
            status, to = found.authorize(dict(parse_qsl(asked.query)))
            self.send_response(status)
            self.send_header("location", to)
            self.send_header("content-length", "0")
            return self.end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            self.tell(*found.token(dict(parse_qsl(body))))

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found
