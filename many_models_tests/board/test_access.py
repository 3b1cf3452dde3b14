"""Who sees the board, what of it, and who may decide."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from many_models.board.access import Access, Keys
from many_models.board.night import StageRun
from many_models.board.sign_in import own_path
from many_models.errors import SettingsError
from many_models.ports import Filter
from many_models.settings import Settings
from many_models_tests.board.shop import APPROVER, PLAIN, READER, series, shop
from many_models_tests.support.serving_parts import draft, pack

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

KEYS = Keys([READER], [APPROVER])
NAME = re.compile(r"key-[0-9a-f]{8}")


def token_of(client: httpx.Client) -> str:
    return re.findall(r'name="token" value="([^"]+)"', client.get("/").text)[0]


def user_of(client: httpx.Client) -> str:
    return NAME.findall(client.get("/").text)[0]


def test_without_a_key_a_browser_is_sent_to_sign_in_and_a_program_refused(tmp_path: Path) -> None:
    with shop(tmp_path).client(KEYS) as client:
        client.follow_redirects = False
        for path in ("/", "/items", "/items.csv", "/groups", "/proposal", f"/items/{series('Rome', PLAIN)}"):
            answer = client.get(path)
            assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in")
            assert client.get(path, headers={"accept": "*/*"}).status_code == 401
        assert client.post("/proposal", data={"verdict": "approve"}).status_code in {303, 401}
        assert client.get("/static/0/board.css").status_code == 404
        assert client.get("/health/live").status_code == 200


def test_a_key_signs_in_by_form_or_header_and_another_does_not(tmp_path: Path) -> None:
    found = shop(tmp_path)
    with found.client(KEYS) as client:
        assert client.post("/sign-in", data={"key": "a key that nobody has"}).status_code == 401
        assert client.get("/items.csv", headers={"x-api-key": READER, "accept": "text/csv"}).status_code == 200
        assert client.get("/items.csv", headers={"x-api-key": READER + "x", "accept": "text/csv"}).status_code == 401
        answer = client.post("/sign-in", data={"key": READER, "to": "/items"})
        assert answer.url.path == "/items"
        cookie = client.cookies.jar
        assert all("httponly" in str(one._rest).lower() for one in cookie)
        assert READER not in str([one.value for one in cookie])
        assert client.get("/").status_code == 200
        client.post("/sign-out", data={"token": token_of(client)})
        client.follow_redirects = False
        assert client.get("/").status_code == 303


def test_a_key_that_is_withdrawn_ends_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("many_models.serving.api_keys.FILE_SECONDS", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"{READER}\n{APPROVER}\n")
    found = shop(tmp_path, serve={"api_keys_file": "keys"})
    with found.client(Keys(), signed_in=READER) as client:
        assert client.get("/").status_code == 200
        file.write_text(f"{APPROVER}\n")
        client.follow_redirects = False
        assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    ("serve", "board", "keys", "is_open", "match"),
    [
        ({}, {}, Keys(), False, "there is no way to sign in"),
        ({}, {"host": "0.0.0.0"}, Keys(), True, "loopback"),
        ({}, {}, Keys(["short"]), False, "fewer than"),
        ({"auth": ["entra"]}, {}, KEYS, False, None),
        ({"api_keys_file": "absent"}, {}, Keys(), False, "cannot be read"),
        ({}, {"rows": "absent.csv"}, KEYS, False, "cannot be read"),
    ],
)
def test_a_board_that_would_be_open_or_shut_does_not_start(tmp_path: Path, serve, board, keys, is_open, match) -> None:
    settings = Settings.model_validate({"root": tmp_path, "serve": serve, "board": board})
    if match is None:  # keys count only where serve.auth says so, and Entra ID has no client here
        assert Access(settings, keys, is_open=is_open).of_key(READER) is None
        return
    with pytest.raises(SettingsError, match=match):
        Access(settings, keys, is_open=is_open)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "[::2]", "a b"])
def test_an_open_board_answers_under_its_own_address_only(tmp_path: Path, host: str) -> None:
    """A page elsewhere could let its own name lead to this machine, and read what no key guards."""
    with shop(tmp_path).client() as client:
        assert client.get("/", headers={"host": host}).status_code == 403
        for own in ("127.0.0.1:8090", "localhost:8090", "[::1]:8090"):
            assert client.get("/", headers={"host": own}).status_code == 200


def decide(client: httpx.Client, **changed: str) -> int:
    form = {"token": token_of(client), "verdict": "approve", "reason": "it looks right", "proposal": "r1", **changed}
    return client.post("/proposal", data=form).status_code


def test_an_approver_decides_with_a_reason_under_their_name(tmp_path: Path) -> None:
    found = shop(tmp_path)
    with found.client(KEYS, signed_in=APPROVER) as client:
        assert decide(client) == 200
        assert decide(client, verdict="reject", reason="no: the bread") == 200
        actor = f"{user_of(client)} (board)"
    assert found.decided == [
        {"proposal": "r1", "actor": actor, "reason": "it looks right", "reject": False},
        {"proposal": "r1", "actor": actor, "reason": "no: the bread", "reject": True},
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "status"),
    [({"token": ""}, 403), ({"token": "another"}, 403), ({"reason": "  "}, 422), ({"verdict": "yes"}, 422),
     ({"proposal": ""}, 422), ({"reason": "x" * 30_000}, 403)],
)  # fmt: skip
def test_a_form_that_no_page_of_ours_made_or_without_reason_decides_nothing(tmp_path: Path, changed, status) -> None:
    found = shop(tmp_path)
    with found.client(KEYS, signed_in=APPROVER) as client:
        assert decide(client, **changed) == status
        page = client.get("/proposal", headers={"sec-fetch-site": "cross-site"})
        assert page.status_code == 200
    assert found.decided == []


def test_a_form_from_another_site_decides_nothing(tmp_path: Path) -> None:
    found = shop(tmp_path)
    for keys, signed_in in ((KEYS, APPROVER), (None, "")):
        with found.client(keys, signed_in=signed_in) as client:
            client.headers["sec-fetch-site"] = "cross-site"
            form = {"verdict": "approve", "reason": "because", "proposal": "r1"}
            assert client.post("/proposal", data=form).status_code == 403
    assert found.decided == []


def test_a_reader_may_look_and_not_decide(tmp_path: Path) -> None:
    found = shop(tmp_path)
    with found.client(KEYS, signed_in=READER) as client:
        assert decide(client) == 403
        assert "Approve</button>" not in client.get("/proposal").text
    assert found.decided == []


# --- rows by key ------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_user_sees_the_rows_of_their_keys_on_every_page_and_no_others(tmp_path: Path) -> None:
    found = shop(tmp_path)
    with found.client(KEYS, signed_in=READER) as client:
        name = user_of(client)
        whole = client.get("/items").text
    assert "Berlin" in whole
    assert "Rome" in whole
    (tmp_path / "rows.csv").write_text(f"user,store\n{name.upper()},Rome\nsomebody,Berlin\n")
    found = shop(tmp_path, board={"rows": "rows.csv"})
    with found.client(KEYS, signed_in=READER) as client:
        for path in ("/", "/items", "/groups", "/items.csv", "/items?is.store=Berlin", "/items?q=Berlin"):
            text = (
                client.get(path)
                .text.replace('value="Berlin"', "")
                .replace("is.store=Berlin", "")
                .replace("q=Berlin", "")
            )
            assert "Berlin" not in text, path
        assert client.get("/groups/store/Berlin").status_code == 404
        assert client.get("/groups/store/Rome").status_code == 200
        assert client.get(f"/items/{series('Berlin', PLAIN)}").status_code == 404
        assert "Berlin" not in client.get("/items/Berlin__brea").text.replace("Berlin__brea", "")
        assert client.get(f"/items/{series('Rome', PLAIN)}").status_code == 200
        assert client.post(f"/items/{series('Berlin', PLAIN)}/what-if", json={}).status_code == 404
    with found.client(KEYS, signed_in=APPROVER) as client:
        assert "No item is like that" in client.get("/items").text


def test_a_rows_file_that_changes_counts_and_a_broken_one_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("many_models.board.access.ROWS_SECONDS", 0.0)
    file = tmp_path / "rows.csv"
    file.write_text("user,store,item\n*,Rome,*\n")
    with shop(tmp_path, board={"rows": "rows.csv"}).client(KEYS, signed_in=READER) as client:
        assert "Rome · bread" in client.get("/items").text
        file.write_text("user,store,item\n*,Berlin,\n*,,bread\n")
        text = client.get("/items").text
        assert "Berlin · x,y[z]" in text
        assert "Rome · bread" in text
        assert "Rome · x,y[z]" not in text
        file.write_text("user,city\n*,Berlin\n")
        assert "No item is like that" in client.get("/items").text


@pytest.mark.parametrize(
    ("to", "led"),
    [("/items?q=a", "/items?q=a"), ("//evil.example", "/"), ("https://evil.example", "/"), ("/\\evil.example", "/"),
     ("", "/"), ("/a\r\nset-cookie: x", "/"), ("/" + "a" * 9000, "/")],
)  # fmt: skip
def test_signing_in_leads_to_a_page_of_the_board_only(to: str, led: str) -> None:
    assert own_path(to) == led


@pytest.mark.slow
def test_an_approver_with_some_rows_sees_numbers_of_these_alone(tmp_path: Path) -> None:
    """Tonight and Approval: what changes, scores, quarantine, series done and cost are of all, or of their own rows."""
    found = shop(tmp_path, items=("milk", "salt", "soap", "tea"))
    proposal = found.production.propose(draft(None, [pack("Berlin"), pack("Rome")], "8 of 8 series promoted"))
    named = [series(store, item) for store in ("Berlin", "Rome") for item in ("milk", "salt", "soap", "tea")]
    decisions = pa.table({
        "release_id": [proposal.release_id] * 8, "series_id": named, "action": ["promote"] * 8, "rule": ["first"] * 8,
        "reason": [""] * 8, "challenger_score": [0.9] * 4 + [0.2] * 4, "champion_score": [0.8] * 4 + [0.1] * 4,
        "cutoff_date": ["2026-10-31"] * 8,
    })  # fmt: skip
    found.lake.replace("decisions", decisions, Filter(), ("cutoff_date",))
    bad = pa.table({"origin": ["sales"] * 77, "reason": ["no key"] * 77})
    found.lake.replace("quarantine", bad, Filter(), ("origin",))
    found.night = lambda: [StageRun("r", "predictions", "SUCCESS", datetime(2026, 11, 1), 7200.0, 4321, 9)]
    with found.client(KEYS, signed_in=APPROVER) as client:
        name = user_of(client)
        whole = client.get("/").text
        assert all(text in whole for text in ("8 series change", "4,321", "77", "55.0 %", "of work"))
        assert "8 of 8 series promoted" in client.get("/proposal").text
    (tmp_path / "rows.csv").write_text(f"user,store\n{name},Rome\n")
    limited = replace(found, settings=shop(tmp_path, board={"rows": "rows.csv"}).settings)
    with limited.client(KEYS, signed_in=APPROVER) as client:
        tonight, approval = client.get("/").text, client.get("/proposal").text
    assert "4 series change" in tonight
    assert "is 20.0 %" in tonight
    for text in (tonight, approval):
        assert not any(told in text for told in ("Berlin", "4,321", ">77<", "55.0 %", "8 series", "8 of 8", "of work"))
    assert "<dd>4</dd>" in approval
    assert "20.0 %" in approval
    assert "the decision is about all" in approval


@pytest.mark.slow
def test_a_reason_about_a_whole_release_is_for_those_who_see_all(tmp_path: Path) -> None:
    """What an approver wrote, and what the release itself says, may name totals: Tonight, Item and Approval."""
    found = shop(tmp_path, items=("milk", "salt", "soap", "tea"))
    secret = "12,345 series of all shops"
    proposal = found.production.propose(draft(None, [pack("Rome")], secret))
    found.production.approve(proposal.release_id, "boss", secret)
    log = {"release_id": proposal.release_id, "event": "approved", "actor": "boss", "reason": secret}
    told = pa.Table.from_pylist([{**log, "decided_at": datetime(2026, 11, 1)}])
    found.lake.replace("release_log", told, Filter(), ())
    own = {"release_id": proposal.release_id, "series_id": series("Rome", "milk"), "action": "promote", "rule": "first"}
    more = {"reason": "beats the baseline", "actor": "nightly", "decided_at": datetime(2026, 11, 1)}
    scores = {"challenger_score": 0.2, "champion_score": 0.3, "cutoff_date": "2026-10-31"}
    decided = pa.Table.from_pylist([{**own, **more, **scores}])
    found.lake.replace("decisions", decided, Filter(), ("cutoff_date",))
    pages = ("/", f"/items/{series('Rome', 'milk')}", "/proposal")
    with found.client(KEYS, signed_in=READER) as client:
        name = user_of(client)
        tonight, item, _ = (client.get(path).text for path in pages)
        assert secret in tonight
        assert f"approved by boss: {secret}" in item
    (tmp_path / "rows.csv").write_text(f"user,store\n{name},Rome\n")
    limited = replace(found, settings=shop(tmp_path, board={"rows": "rows.csv"}).settings)
    with limited.client(KEYS, signed_in=READER) as client:
        tonight, item, approval = (client.get(path).text for path in pages)
    assert not [text for text in (tonight, item, approval) if "12,345" in text]
    assert "boss" in tonight
    assert "beats the baseline" in item
    assert "approved by boss" in item
