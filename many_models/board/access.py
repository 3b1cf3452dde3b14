"""Who looks, what of it they may see, and whether they may decide: API keys, a signed cookie, rows by key."""

from __future__ import annotations

import csv
import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from starlette.exceptions import HTTPException

from many_models.errors import SettingsError
from many_models.serving.api_keys import KeyFile, hash_keys
from many_models.serving.auth import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from starlette.requests import Request

    from many_models.board.items import Items
    from many_models.settings import Settings

NAME, LONGEST_KEY = "many_models_board", 500
ROWS_SECONDS = 2.0  # after which the file of rows is looked at again
EVERYBODY, ANYTHING = "*", "*"


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `token` is what a form of theirs carries, so that no other site can send it."""

    name: str
    approver: bool
    token: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keys:
    """Secrets of the environment: API keys of readers and of approvers, and the application's own at Entra ID."""

    readers: Sequence[str] = ()
    approvers: Sequence[str] = ()
    client_secret: str = ""


class SignInError(HTTPException):
    """The caller is not signed in."""

    def __init__(self) -> None:
        super().__init__(401, "sign in first")


class ForbiddenError(HTTPException):
    """The caller may not do this."""

    def __init__(self, reason: str) -> None:
        super().__init__(403, reason)


class Access:
    """Decides who someone is. Raises SettingsError where the settings leave the board open to a network, or shut."""

    def __init__(self, settings: Settings, keys: Keys, *, is_open: bool) -> None:
        board, serve = settings.board, settings.serve
        self.is_open, self.by_key = is_open, "api_key" in serve.auth and not is_open
        self.by_entra = "entra" in serve.auth and bool(board.entra_client) and not is_open
        if is_open and not is_loopback(board.host):
            raise SettingsError(f"--no-auth is for a loopback address, and board.host is {board.host}: leave it out")
        self._readers, self._approvers = hash_keys(keys.readers), hash_keys(keys.approvers)
        self._files = [
            KeyFile(settings.path(name)) if name and self.by_key else None
            for name in (serve.api_keys_file, board.approver_keys_file)
        ]
        if not is_open and not self.by_entra and not (self._readers or self._approvers or any(self._files)):
            raise SettingsError(
                "there is no way to sign in: put API keys, one a line, into the file serve.api_keys_file or into "
                "MANY_MODELS_SERVE_API_KEYS, or set board.entra_client; on this machine alone "
                "`many-models board --no-auth` needs no sign-in"
            )
        self.rows = Rows(settings.path(board.rows), settings.data.keys) if board.rows else None
        self._open_token = secrets.token_urlsafe(24)

    def user(self, request: Request) -> User:
        """Who asks. Raises SignInError."""
        if self.is_open:
            return User(_account(), approver=True, token=self._open_token)
        if (key := request.headers.get("x-api-key")) is not None:
            if (user := self.of_key(key)) is None:
                raise SignInError
            return user
        session: dict[str, Any] = request.session
        if session.get("key"):
            return self._of_hash(str(session["key"]), str(session.get("token", "")))
        if self.by_entra and session.get("name") and time.time() < float(session.get("until", 0)):
            names = tuple(map(str, session.get("names", ())))
            return User(str(session["name"]), bool(session.get("approver")), str(session.get("token", "")), names)
        raise SignInError

    def of_key(self, key: str) -> User | None:
        """Whose API key that is."""
        if not self.by_key or len(key) > LONGEST_KEY:
            return None
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).digest()
        try:
            return self._of_hash(digest.hex(), "")
        except SignInError:
            return None

    def _of_hash(self, text: str, token: str) -> User:
        """A key is looked for at each request: one that was withdrawn ends its session."""
        digest = bytes.fromhex(text)
        of_readers, of_approvers = (file.hashes if file else frozenset[bytes]() for file in self._files)
        approver = _among(digest, self._approvers | of_approvers)
        if not approver and not _among(digest, self._readers | of_readers):
            raise SignInError
        name = f"key-{text[:8]}"
        return User(name, approver, token, (name,))

    def visible(self, user: User, items: Items) -> NDArray[np.bool_] | None:
        """Which items a user sees; None: all."""
        return None if self.rows is None or self.is_open else self.rows.mask(user, items)

    def check_host(self, host: str) -> None:
        """Raise ForbiddenError where an open board is asked by another name than this machine's: a page elsewhere
        could have its own name lead here.
        """
        name = urlsplit(f"//{host}").hostname or ""
        if self.is_open and not is_loopback(name):
            raise ForbiddenError("without keys the board answers on this machine's own address only, as 127.0.0.1")

    def check_form(self, user: User, request: Request, form: Mapping[str, str]) -> None:
        """Raise ForbiddenError for a form that a page of ours has not made for this user."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        if site not in {"same-origin", "none"} or not user.token:
            raise ForbiddenError("this form does not come from a page of the board")
        if not hmac.compare_digest(form.get("token", "").encode(), user.token.encode()):
            raise ForbiddenError("this form is out of date: open the page again")


def _among(digest: bytes, known: frozenset[bytes]) -> bool:
    return sum(hmac.compare_digest(digest, one) for one in known) > 0  # each in constant time


def _account() -> str:
    import getpass

    return getpass.getuser()


@dataclass(slots=True)
class Rows:
    """The file that says who sees what: a column `user`, and columns named as keys; `*` or nothing is any value.

    A user sees what any line with one of their names, or with `*`, says. It is read again when it changes; one that
    cannot be read shows nobody anything.
    """

    path: Path
    keys: Sequence[str]
    _rules: Mapping[str, list[dict[str, str]]] = field(default_factory=dict[str, list[dict[str, str]]])
    _looked: float = float("-inf")
    _stamp: tuple[float, int] = (0.0, -1)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._rules = read_rows(self.path, self.keys)

    def mask(self, user: User, items: Items) -> NDArray[np.bool_]:
        """Which items the user sees."""
        self._look()
        found = np.zeros(len(items.frame), bool)
        for name in (EVERYBODY, user.name, *user.names):
            for rule in self._rules.get(name.casefold(), ()):
                seen = np.ones(len(items.frame), bool)
                for key, value in rule.items():
                    seen &= items.frame[key].to_numpy() == value
                found |= seen
        return found

    def _look(self) -> None:
        with self._lock:
            if time.monotonic() - self._looked < ROWS_SECONDS:
                return
            self._looked = time.monotonic()
            try:
                about = self.path.stat()
                if (stamp := (about.st_mtime, about.st_size)) != self._stamp:
                    self._rules, self._stamp = read_rows(self.path, self.keys), stamp
            except (OSError, SettingsError):
                self._rules, self._stamp = {}, (0.0, -1)


def read_rows(path: Path, keys: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """User (case-folded) → what each of their lines asks of keys. Raises SettingsError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            lines = list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        raise SettingsError(f"board.rows: {path} cannot be read: {error}") from error
    if "user" not in names or set(names) - {"user", *keys}:
        raise SettingsError(
            f"board.rows: {path} has the columns {', '.join(names) or 'none'}; it needs `user`, and beside it only "
            f"columns named as keys: {', '.join(keys)}"
        )
    rules = dict[str, list[dict[str, str]]]()
    for line in lines:
        wanted = {key: line[key] for key in keys if line.get(key) not in {None, "", ANYTHING}}
        rules.setdefault((line["user"] or "").strip().casefold(), []).append(wanted)
    rules.pop("", None)
    return rules
