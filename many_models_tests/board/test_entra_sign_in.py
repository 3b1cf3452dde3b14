"""Signing in at Entra ID: authorization code with PKCE, against a stand-in that refuses everything else."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from many_models.board.access import Keys
from many_models_tests.board.shop import Shop, shop
from many_models_tests.stand_ins.entra_login import CLIENT, TENANT, Login, login

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@contextmanager
def signed_out(root: Path, entra: Login, **board: object) -> Iterator[tuple[Shop, httpx.Client]]:
    """A browser on a board whose people sign in at `entra`."""
    serve = {"auth": ["entra"], "entra_tenant": TENANT, "entra_keys": f"{entra.url}/keys"}
    sections: dict[str, dict[str, Any]] = {
        "serve": {**serve, "entra_roles": board.pop("roles", [])},
        "board": {"entra_client": CLIENT, "entra_authority": entra.url, **board},
    }
    found = shop(root, **sections)
    with found.client(Keys(client_secret=entra.secret)) as client:
        entra.redirects = (str(client.base_url).rstrip("/") + "/sign-in/entra/callback",)
        yield found, client


@pytest.mark.slow
@pytest.mark.parametrize("secret", ["", "the application's own"])
def test_a_person_signs_in_and_comes_to_the_page_they_asked_for(tmp_path: Path, secret: str) -> None:
    with login() as entra:
        entra.secret = secret
        with signed_out(tmp_path, entra) as (_, client):
            page = client.get("/items?q=bread")
            assert page.url.path == "/sign-in"
            assert "Sign in with Microsoft" in page.text
            page = client.get("/sign-in/entra?to=%2Fitems%3Fq%3Dbread")
            assert (page.url.path, page.url.query) == ("/items", b"q=bread")
            assert "ada@example.com" in page.text
            assert "approver" not in page.text
    assert entra.refused == []


def test_only_the_role_of_approvers_lets_approve(tmp_path: Path) -> None:
    with login() as entra:
        entra.claims = {"roles": ["Forecasts.Approve"]}
        with signed_out(tmp_path, entra, approver_role="Forecasts.Approve") as (_, client):
            assert "ada@example.com, approver" in client.get("/sign-in/entra").text


@pytest.mark.slow
@pytest.mark.parametrize(
    "claims",
    [{"aud": "another application"}, {"iss": "https://login.microsoftonline.com/other/v2.0"}, {"exp": 1},
     {"nonce": "of another sign-in"}, {"nonce": None}, {"tid": "another tenant"}, {"roles": []}, {"roles": "Reader"}],
)  # fmt: skip
def test_an_identity_that_is_not_valid_does_not_sign_in(tmp_path: Path, claims: dict[str, Any]) -> None:
    with login() as entra:
        entra.claims = {"roles": ["Reader"], **claims}
        with signed_out(tmp_path, entra, roles=["Reader"]) as (_, client):
            assert client.get("/sign-in/entra").status_code == 403
            assert client.get("/").url.path == "/sign-in"


def test_a_code_counts_once_with_its_state_and_only_in_the_browser_that_began(tmp_path: Path) -> None:
    with login() as entra, signed_out(tmp_path, entra) as (_, client):
        client.follow_redirects = False
        there = client.get("/sign-in/entra").headers["location"]
        back = entra.authorize(dict(parse_qsl(urlsplit(there).query)))[1]
        kept = dict(client.cookies)
        client.cookies.clear()
        assert client.get(back).status_code == 403  # somebody else's browser: signed in as the one who made the link
        client.cookies.update(kept)
        query = dict(parse_qsl(urlsplit(back).query))
        path = urlsplit(back).path
        assert client.get(f"{path}?{urlencode({**query, 'state': 'x' * 30})}").status_code == 403
        client.cookies.update(kept)
        assert client.get(f"{path}?{urlencode({'state': query['state'], 'error': 'access_denied'})}").status_code == 403
        client.cookies.clear()
        client.cookies.update(kept)
        assert client.get(back).status_code == 303
        assert client.get(back).status_code == 403


def test_the_rows_of_a_person_are_those_of_their_name_roles_and_groups(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,store\nada@example.com,Rome\nbuyers,Berlin\n")
    with login() as entra, signed_out(tmp_path, entra, rows="rows.csv") as (_, client):
        client.get("/sign-in/entra")
        text = client.get("/items").text
        assert "Rome · bread" in text
        assert "Berlin" not in text
        entra.claims = {"groups": ["buyers"]}
        client.get("/sign-in/entra")
        assert "Berlin · bread" in client.get("/items").text
