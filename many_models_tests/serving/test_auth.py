"""Who may ask the service: API keys, Entra ID tokens, and what is refused before it listens."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from many_models.errors import SettingsError
from many_models.serving import api_keys, auth
from many_models.serving.auth import Authenticator, DeniedError
from many_models_tests.support.running_server import serving
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
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/keys")
            self.end_headers()
            odd = next((key for key in keys if isinstance(key, bytes)), None)
            self.wfile.write(json.dumps({"keys": keys}).encode() if odd is None else odd)

        def log_message(self, *_):
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Keys)) as server:
        yield f"http://127.0.0.1:{server.server_port}/keys", keys, asked_for


def token(signing, kid: str = "one", algorithm: str = "RS256", **claims) -> str:
    now = int(time.time())
    body = {
        "aud": AUDIENCE, "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0", "exp": now + 600, "nbf": now - 60,
        "tid": TENANT, "roles": ["Forecasts.Read"], **claims,
    }  # fmt: skip
    body = {name: value for name, value in body.items() if value is not None}
    return jwt.encode(body, signing, algorithm, headers={"kid": kid})


def entra(root: Path, url: str, **serve) -> Authenticator:
    given = {"auth": ["entra"], "entra_tenant": TENANT, "entra_audience": AUDIENCE, "entra_keys": url, **serve}
    return Authenticator(settings_for(root, **given))


def status(guard: Authenticator, **headers: str) -> int:
    """What a request with these headers (`_` for `-`) would get: 200, or why not."""

    async def check() -> int:
        try:
            await guard.check({name.replace("_", "-").encode(): value.encode() for name, value in headers.items()})
        except DeniedError as error:
            return error.status
        return 200

    return asyncio.run(check())


def bearer(guard: Authenticator, text: str) -> int:
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
        Authenticator(settings_for(tmp_path, **serve), keys)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_without_keys_it_starts_on_loopback_alone(tmp_path: Path, host: str) -> None:
    assert status(Authenticator(settings_for(tmp_path, host=host))) == 200


def test_a_key_counts_in_either_header_and_nothing_else_does(tmp_path: Path) -> None:
    guard = Authenticator(settings_for(tmp_path, auth=["api_key"]), [KEY, "another key, also long"])
    assert status(guard, x_api_key=KEY) == bearer(guard, KEY) == bearer(guard, "another key, also long") == 200
    assert [status(guard), status(guard, x_api_key=""), status(guard, x_api_key=KEY[:-1]), bearer(guard, "")] == [
        401
    ] * 4
    assert status(guard, authorization=f"Basic {KEY}") == 401
    assert KEY not in repr(vars(guard))


def test_a_replaced_key_file_counts_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "FILE_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n")
    guard = Authenticator(settings_for(tmp_path, auth=["api_key"], api_keys_file="keys"))
    assert status(guard, x_api_key=KEY) == 200
    file.write_text("a new key of the tests\n")
    assert (status(guard, x_api_key=KEY), status(guard, x_api_key="a new key of the tests")) == (401, 200)
    file.unlink()  # in the middle of being replaced
    assert status(guard, x_api_key="a new key of the tests") == 200


# --- the file of keys, while the service runs -------------------------------------------------------------------------
OTHER = "another key, also long"


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(api_keys, "FILE_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n{OTHER}\n")
    return file


def guard_of(key_file: Path) -> Authenticator:
    return Authenticator(settings_for(key_file.parent, auth=["api_key"], api_keys_file=key_file.name))


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "many_models.serving.api_keys"]


@pytest.mark.parametrize("bad", [b"short", b"\xff\xfe\xfd not utf-8, but long", b"a key with a \x07 bell in it"])
def test_a_bad_line_is_left_out_and_a_withdrawn_key_is_refused(key_file: Path, caplog, bad: bytes) -> None:
    guard = guard_of(key_file)
    key_file.write_bytes(OTHER.encode() + b"\n" + bad + b"\n")
    assert [status(guard, x_api_key=key) for key in (OTHER, KEY, OTHER)] == [200, 401, 200]
    told = [line for line in lines_of(caplog) if "line 2 can be no key" in line]
    assert len(told) == 1
    assert bad.decode("utf-8", "replace") not in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be-sig", "dos"])
def test_a_byte_order_mark_or_dos_line_ends_refuse_no_key(key_file: Path, encoding: str) -> None:
    guard, text = guard_of(key_file), f"{KEY}\r\n{OTHER}\r\n"
    as_stored = {"utf-16-be-sig": b"\xfe\xff" + text.encode("utf-16-be"), "dos": text.encode()}
    key_file.write_bytes(as_stored.get(encoding) or text.encode(encoding))
    assert [status(guard, x_api_key=key) for key in (KEY, OTHER)] == [200, 200]
    assert status(guard_of(key_file), x_api_key=KEY) == 200


def test_other_content_counts_although_size_and_time_are_the_same(key_file: Path) -> None:
    guard, about = guard_of(key_file), key_file.stat()
    assert status(guard, x_api_key=KEY) == 200
    key_file.write_text(f"{KEY[::-1]}\n{OTHER}\n")
    os.utime(key_file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (status(guard, x_api_key=KEY), status(guard, x_api_key=KEY[::-1])) == (401, 200)


@pytest.mark.parametrize("how", ["deleted", "a folder", "a pipe", "too large"])
def test_keys_of_a_file_that_is_gone_count_for_a_minute_and_then_no_more(
    key_file: Path, caplog, monkeypatch, how
) -> None:
    guard = guard_of(key_file)
    key_file.unlink()
    if how == "a folder":
        key_file.mkdir()
    elif how == "a pipe":
        os.mkfifo(key_file)
    elif how == "too large":
        key_file.write_bytes(b"x" * (api_keys.MOST_BYTES + 1))
    assert [status(guard, x_api_key=KEY) for _ in range(3)] == [200] * 3
    monkeypatch.setattr(api_keys, "MISSED_SECONDS", 0.0)
    assert [status(guard, x_api_key=KEY) for _ in range(3)] == [503] * 3
    key_file.rmdir() if how == "a folder" else key_file.unlink(missing_ok=True)
    key_file.write_text(f"{OTHER}\n")
    assert (status(guard, x_api_key=OTHER), status(guard, x_api_key=KEY)) == (200, 401)
    assert sum("cannot be read" in line for line in lines_of(caplog)) == 2
    assert sum("is back" in line for line in lines_of(caplog)) == 1


def test_an_emptied_file_refuses_every_key_and_says_so_once(key_file: Path, caplog) -> None:
    guard = guard_of(key_file)
    key_file.write_text("\n \n")
    assert [status(guard, x_api_key=key) for key in (KEY, OTHER, "")] == [401] * 3
    assert sum("no client can authenticate" in line for line in lines_of(caplog)) == 1


def test_a_bad_line_at_the_start_is_an_error_that_names_the_line(key_file: Path) -> None:
    key_file.write_text(f"{KEY}\n\nsecret\n")
    with pytest.raises(SettingsError, match="line 3") as error:
        guard_of(key_file)
    assert "secret" not in str(error.value)


# --- tokens -----------------------------------------------------------------------------------------------------------
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


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def raw_token(signing, head: str, claims: str) -> str:
    """A token of any text, rightly signed."""
    parts = [base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in (head, claims)]
    said = b".".join(parts)
    signature = signing.sign(said, padding.PKCS1v15(), hashes.SHA256())
    return b".".join([said, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


GOOD_HEAD = '{"alg":"RS256","kid":"one"}'


@pytest.mark.parametrize(
    "head",
    ["[]", "1", "null", '"x"', "{", nested(20_000), '{"alg":"RS256","kid":["one"]}', '{"alg":["RS256"],"kid":"one"}',
     '{"alg":{},"kid":"one"}', '{"alg":"RS256","kid":{"a":1}}', '{"alg":"RS256","kid":"one","crit":7}',
     '{"alg":"RS256","kid":"one","crit":["b64"],"b64":false}', '{"kid":1e999,"alg":"RS256"}'],
)  # fmt: skip
def test_an_odd_head_of_a_token_is_401(tmp_path: Path, signing, published, head: str) -> None:
    claims = json.dumps({"aud": AUDIENCE, "iss": f"https://sts.windows.net/{TENANT}/", "exp": int(time.time()) + 600})
    assert bearer(entra(tmp_path, published[0]), raw_token(signing, head, claims)) == 401


@pytest.mark.parametrize(
    ("claim", "value"),
    [(claim, value) for claim in ("exp", "nbf", "iat", "aud", "iss", "tid", "roles", "scp")
     for value in ("[[]]", "{}", "null", "true", "-1e999", "1e999", "NaN", '"\\ud800"', "[{}]", "9" * 400)],
)  # fmt: skip
def test_an_odd_claim_of_a_signed_token_is_no_failure_of_ours(
    tmp_path: Path, signing, published, claim: str, value: str
) -> None:
    now = int(time.time())
    good = {"aud": f'"{AUDIENCE}"', "iss": f'"https://sts.windows.net/{TENANT}/"', "exp": str(now + 600),
            "nbf": str(now - 60), "tid": f'"{TENANT}"', "roles": '["Forecasts.Read"]'}  # fmt: skip
    claims = "{" + ",".join(f'"{name}":{text}' for name, text in {**good, claim: value}.items()) + "}"
    guard = entra(tmp_path, published[0], entra_roles=["Forecasts.Read"])
    allowed = {200, 401} if claim in {"nbf", "iat", "scp"} or (claim, value) == ("exp", "9" * 400) else {401, 403}
    assert bearer(guard, raw_token(signing, GOOD_HEAD, claims)) in allowed


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"1", b"null", b"{}", b'{"keys":1}', b'{"keys":[]}', b'{"keys":[1,null,[],"x",{}]}', b"\xff\xfe",
     b'{"keys":[{"kty":"RSA","kid":"one"}]}', b'{"keys":[{"kty":"RSA","kid":["one"],"n":1,"e":[]}]}',
     b'{"keys":[{"kty":"oct","kid":"one","k":"eHh4"}]}', b"[" * 100_000, b" " * 1_100_000],
    ids=lambda document: document[:40].decode("latin-1"),
)  # fmt: skip
def test_an_odd_key_document_is_503_and_known_keys_go_on(tmp_path: Path, signing, published, document: bytes) -> None:
    url, keys, _ = published
    keys.append(document)  # instead of the keys
    assert bearer(entra(tmp_path, url), token(signing)) == 503
    keys.pop()
    guard = entra(tmp_path, url)
    assert bearer(guard, token(signing)) == 200
    keys.append(document)
    guard._entra._fetched = guard._entra._tried = float("-inf")
    assert bearer(guard, token(signing, jti="2")) == 200


def test_an_odd_entry_of_a_key_document_leaves_the_others_alone(tmp_path: Path, signing, published) -> None:
    url, keys, _ = published
    keys[:0] = [7, {"kty": "RSA", "kid": "odd", "n": "!", "e": 5}, {"kty": "EC", "kid": {}}, None]
    assert bearer(entra(tmp_path, url), token(signing)) == 200


def test_a_redirect_of_the_key_document_is_not_followed(tmp_path: Path, signing, published) -> None:
    url, _, asked_for = published
    assert bearer(entra(tmp_path, url.replace("/keys", "/moved")), token(signing)) == 503
    assert asked_for == ["/moved"]


def test_a_known_signing_key_is_not_held_up_by_a_fetch_that_hangs(tmp_path: Path, signing, published) -> None:
    """Anybody can name an unknown key, which has Entra ID asked again: that delays no one else."""
    url, _, _ = published
    guard = entra(tmp_path, url)
    asked, answers = threading.Event(), threading.Event()

    def hang(_: str) -> dict:
        asked.set()
        answers.wait(60)
        raise OSError

    async def both() -> tuple[int, int]:
        def said(text: str) -> dict[bytes, bytes]:
            return {b"authorization": f"Bearer {text}".encode()}

        await guard.check(said(token(signing)))
        guard._entra._tried = float("-inf")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(auth, "_fetch_keys", hang)
            stranger = asyncio.create_task(guard.check(said(token(signing, "unknown"))))
            await asyncio.to_thread(asked.wait, 60)
            try:
                await guard.check(said(token(signing, jti="2")))
                known = stranger.done()
            finally:
                answers.set()
            with pytest.raises(DeniedError) as denied:
                await stranger
        return known, denied.value.status

    assert asyncio.run(both()) == (False, 401)


def test_a_verified_token_is_looked_at_again_before_it_expires(tmp_path: Path, signing, published) -> None:
    """Its signing key may have been withdrawn."""
    guard = entra(tmp_path, published[0])
    assert bearer(guard, token(signing, exp=int(time.time()) + 10**8)) == 200
    (until,) = guard._entra._good.values()
    assert until <= time.time() + auth.TOKEN_SECONDS


def test_every_route_of_v1_asks_before_it_reads_and_health_does_not(tmp_path: Path) -> None:
    async def ask() -> None:
        async with asked(Registry(pack("a")), tmp_path, auth=["api_key"]) as client:
            routes = [path for path in client.service_paths if path.startswith("/v1/")]
            assert len(routes) == 6
            for path in [*routes, "/v1/nothing"]:
                method = "POST" if path in {"/v1/forecasts", "/v1/explanations"} else "GET"
                answer = await client.request(method, path, content=b"x" * 100_000_000)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert (await client.get("/health/ready")).status_code == 200
            assert (await client.get("/metrics")).status_code == 200
            live = await client.get("/v1/releases/live", headers={"X-API-Key": KEY})
            assert live.status_code == 200

    asyncio.run(ask())
