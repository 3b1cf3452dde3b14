"""Who may ask the service: API keys, Entra ID tokens, and what is refused before it listens."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from many_models.errors import SettingsError
from many_models.serving import auth
from many_models.serving.auth import DeniedError, Guard
from many_models_tests.support.serving_parts import KEY, Registry, asked, pack, settings_for

if TYPE_CHECKING:
    from pathlib import Path

TENANT, AUDIENCE = "11111111-2222-3333-4444-555555555555", "api://many-models"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def signing():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def published(signing):
    """An endpoint that publishes signing keys: its URL, the keys (a list to change), and how often it was asked."""
    keys = [{**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(signing.public_key())), "kid": "one", "use": "sig"}]
    asked_for: list[str] = []

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self):
            asked_for.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": keys}).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Keys)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/keys", keys, asked_for
    server.shutdown()
    server.server_close()
    thread.join()


def token(signing, kid: str = "one", algorithm: str = "RS256", **claims) -> str:
    now = int(time.time())
    body = {
        "aud": AUDIENCE, "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0", "exp": now + 600, "nbf": now - 60,
        "tid": TENANT, "roles": ["Forecasts.Read"], **claims,
    }  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, signing, algorithm, headers={"kid": kid})


def entra(root: Path, url: str, **serve) -> Guard:
    given = {"auth": ["entra"], "entra_tenant": TENANT, "entra_audience": AUDIENCE, "entra_keys": url, **serve}
    return Guard(settings_for(root, **given))


def status(guard: Guard, **headers: str) -> int:
    """What a request with these headers (`_` for `-`) would get: 200, or why not."""

    async def check() -> int:
        try:
            await guard.check({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})
        except DeniedError as error:
            return error.status
        return 200

    return asyncio.run(check())


def bearer(guard: Guard, text: str) -> int:
    return status(guard, authorization=f"Bearer {text}")


@pytest.mark.parametrize(
    ("serve", "keys", "match"),
    [
        ({"auth": [], "host": "0.0.0.0"}, [], "loopback"),
        ({"auth": [], "host": "example.com"}, [], "loopback"),
        ({"auth": ["api_key"]}, [], "no API key"),
        ({"auth": ["api_key"]}, ["short"], "at least|fewer"),
        ({"auth": ["api_key"], "api_keys_file": "absent"}, [], "absent cannot be read"),
        ({"auth": ["entra"]}, [KEY], "entra_tenant"),
        ({"auth": ["entra"], "entra_tenant": "t", "entra_audience": "a", "entra_keys": "http://e.com"}, [], "https"),
        ({"auth": ["entra"], "entra_tenant": "t", "entra_audience": "a", "entra_keys": "file:///k"}, [], "https"),
    ],
)
def test_a_service_that_would_be_open_or_shut_does_not_start(tmp_path: Path, serve, keys, match) -> None:
    with pytest.raises(SettingsError, match=match):
        Guard(settings_for(tmp_path, **serve), keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_without_keys_it_starts_on_loopback_alone(tmp_path: Path, host: str) -> None:
    assert status(Guard(settings_for(tmp_path, host=host))) == 200


def test_a_key_counts_in_either_header_and_nothing_else_does(tmp_path: Path) -> None:
    guard = Guard(settings_for(tmp_path, auth=["api_key"]), [KEY, "another key, also long"])
    assert status(guard, x_api_key=KEY) == bearer(guard, KEY) == bearer(guard, "another key, also long") == 200
    assert [status(guard), status(guard, x_api_key=""), status(guard, x_api_key=KEY[:-1]), bearer(guard, "")] == [
        401
    ] * 4
    assert status(guard, authorization=f"Basic {KEY}") == 401
    assert KEY not in repr(vars(guard))


def test_a_replaced_key_file_counts_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FILE_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n")
    guard = Guard(settings_for(tmp_path, auth=["api_key"], api_keys_file="keys"))
    assert status(guard, x_api_key=KEY) == 200
    file.write_text("a new key of the tests\n")
    assert (status(guard, x_api_key=KEY), status(guard, x_api_key="a new key of the tests")) == (401, 200)
    file.unlink()  # in the middle of being replaced
    assert status(guard, x_api_key="a new key of the tests") == 200


def test_a_token_counts_only_whole_and_for_us(tmp_path: Path, signing, published) -> None:
    url, _, _ = published
    guard = entra(tmp_path, url, entra_roles=["Forecasts.Read"])
    good = token(signing)
    assert bearer(guard, good) == 200
    assert (
        bearer(guard, token(signing, iss=f"https://sts.windows.net/{TENANT}/", roles=None, scp="x Forecasts.Read"))
        == 200
    )
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    bad = {
        "another's signature": token(other),
        "expired": token(signing, exp=int(time.time()) - 100),
        "not yet": token(signing, nbf=int(time.time()) + 600),
        "another audience": token(signing, aud="api://other"),
        "another issuer": token(signing, iss="https://login.microsoftonline.com/other/v2.0"),
        "another tenant": token(signing, tid="other"),
        "no expiry": token(signing, exp=None),
        "no signature": jwt.encode({"aud": AUDIENCE}, None, "none", headers={"kid": "one"}),
        "a shared secret": jwt.encode({"aud": AUDIENCE}, "x" * 32, "HS256", headers={"kid": "one"}),
        "changed": f"{good[:-8]}AAAAAAAA",
        "no token": "a.b.c",
    }
    assert {name: bearer(guard, text) for name, text in bad.items()} == dict.fromkeys(bad, 401)
    assert bearer(guard, token(signing, roles=["Other"])) == 403
    assert status(guard, x_api_key=KEY) == 401


def test_unknown_signing_keys_are_asked_for_rarely_and_a_new_one_is_taken(
    tmp_path: Path, signing, published, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, keys, asked_for = published
    guard = entra(tmp_path, url)
    for kid in ("one", "two", "three"):
        bearer(guard, token(signing, kid))
    assert len(asked_for) == 1
    keys[0] = {**keys[0], "kid": "two"}
    monkeypatch.setattr(auth, "REFRESH_SECONDS", 0.0)
    assert (bearer(guard, token(signing, "two", jti="2")), bearer(guard, token(signing, "one", jti="3"))) == (200, 401)


def test_without_entras_keys_it_says_so_and_with_old_ones_it_goes_on(tmp_path: Path, signing, published) -> None:
    url, _, _ = published
    away = entra(tmp_path, "http://127.0.0.1:9/keys")
    assert [bearer(away, token(signing)) for _ in range(3)] == [503] * 3
    guard = entra(tmp_path, url)
    assert bearer(guard, token(signing)) == 200
    guard._entra._url = "http://127.0.0.1:9/keys"
    guard._entra._fetched = guard._entra._tried = float("-inf")
    assert bearer(guard, token(signing, jti="2")) == 200


def test_every_route_of_v1_asks_before_it_reads_and_health_does_not(tmp_path: Path) -> None:
    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path, auth=["api_key"]) as client:
            routes = [path for path in client.service_paths if path.startswith("/v1/")]
            assert len(routes) == 3
            for path in [*routes, "/v1/nothing"]:
                method = "POST" if path == "/v1/forecasts" else "GET"
                answer = await client.request(method, path, content=b"x" * 100_000_000)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            live = await client.get("/v1/releases/live", headers={"X-API-Key": KEY})
            assert live.status_code == 200

    asyncio.run(ask())
