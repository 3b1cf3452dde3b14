"""Who may ask: API keys, kept as hashes, and Entra ID's bearer tokens, checked against its published keys."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import time
import urllib.request
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from many_models.errors import ManyModelsError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.settings import ServeSettings, Settings

SHORTEST_KEY = 16
FILE_SECONDS = 2.0  # a changed file of keys counts after so long
REFRESH_SECONDS = 60.0  # an unknown signing key asks Entra ID again at most so often
AWAY_SECONDS = 5.0  # and when it did not answer
KEYS_SECONDS = 24 * 3600.0  # known signing keys are fetched again after so long
TOKENS = 1_000  # verified tokens that are remembered until they expire


class DeniedError(ManyModelsError):
    """A request that may not be answered: `status` is its HTTP status (401, 403, 503)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """Checks credentials. Raises SettingsError where the settings leave the service open to a network, or shut."""

    def __init__(self, settings: Settings, keys: Sequence[str] = ()) -> None:
        serve = settings.serve
        self._ways = set(serve.auth)
        if not self._ways and not is_loopback(serve.host):
            raise SettingsError(f"serve.auth is empty and serve.host {serve.host} is no loopback address: set one")
        self._file = settings.path(serve.api_keys_file) if serve.api_keys_file else None
        self._given = _hashes(keys)
        self._from_file: frozenset[bytes] = frozenset()
        self._stamp, self._looked = -1, float("-inf")
        if "api_key" in self._ways:
            self._read_file()
            if not self._given | self._from_file:
                raise SettingsError(
                    "no API key: put keys, one a line, into the file serve.api_keys_file, or into "
                    "MANY_MODELS_SERVE_API_KEYS; on this machine alone `many-models serve --no-auth` asks for none"
                )
        self._entra = Entra(serve) if "entra" in self._ways else None

    @property
    def is_open(self) -> bool:
        """Whether nobody is asked for anything."""
        return not self._ways

    async def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises DeniedError unless `headers` (lower-case names) carry a key or token that counts."""
        if self.is_open:
            return
        if (key := headers.get(b"x-api-key")) is not None:
            self._check_key(key)
            return
        way, _, token = headers.get(b"authorization", b"").partition(b" ")
        token = token.strip()
        if way.lower() != b"bearer" or not token:
            raise DeniedError(401, "a key (header X-API-Key) or a bearer token is needed")
        if self._entra is not None and token.count(b".") == 2:
            await self._entra.check(token)
        else:
            self._check_key(token)

    def _check_key(self, key: bytes) -> None:
        if "api_key" in self._ways:
            self._read_file()
            own = hashlib.sha256(key).digest()
            # every one is compared, each in constant time: how long it takes tells nothing
            if sum(hmac.compare_digest(own, known) for known in self._given | self._from_file):
                return
        raise DeniedError(401, "this key is not known")

    def _read_file(self) -> None:
        """Keys can be replaced while the service runs: a mounted secret changes its file."""
        now = time.monotonic()
        if self._file is None or now - self._looked < FILE_SECONDS:
            return
        self._looked = now
        try:
            stamp = self._file.stat().st_mtime_ns
            if stamp != self._stamp:
                self._from_file, self._stamp = _hashes(self._file.read_text().splitlines()), stamp
        except OSError as error:
            if self._stamp < 0:
                raise SettingsError(f"serve.api_keys_file {self._file} cannot be read: {error.strerror}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hashes(keys: Sequence[str]) -> frozenset[bytes]:
    plain = [key.strip() for key in keys if key.strip()]
    if any(len(key) < SHORTEST_KEY for key in plain):
        raise SettingsError(f"an API key has fewer than {SHORTEST_KEY} characters: make longer ones")
    return frozenset(hashlib.sha256(key.encode()).digest() for key in plain)


class Entra:
    """Tokens of one tenant for one audience, with one of the roles or scopes that the settings name."""

    def __init__(self, serve: ServeSettings) -> None:
        if not serve.entra_tenant or not serve.entra_audience:
            raise SettingsError("serve.auth has entra: serve.entra_tenant and serve.entra_audience are needed")
        tenant = serve.entra_tenant
        self._url = serve.entra_keys or f"https://login.microsoftonline.com/{tenant}/discovery/v2.0/keys"
        parsed = urlparse(self._url)
        if parsed.scheme != "https" and not (parsed.scheme == "http" and is_loopback(parsed.hostname or "")):
            raise SettingsError(f"serve.entra_keys {self._url} is not https")
        self._issuers = [f"https://login.microsoftonline.com/{tenant}/v2.0", f"https://sts.windows.net/{tenant}/"]
        self._tenant, self._audience, self._roles = tenant, serve.entra_audience, set(serve.entra_roles)
        self._keys: dict[str, Any] = {}
        self._fetched, self._tried = float("-inf"), float("-inf")
        self._lock = asyncio.Lock()
        self._good: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, token: bytes) -> None:
        """Raises DeniedError unless `token` is one that counts now."""
        own = hashlib.sha256(token).digest()
        if (until := self._good.get(own)) is not None and time.time() < until:
            return
        claims = await self._verified(token)
        roles = claims.get("roles", [])
        held = {*(roles if isinstance(roles, list) else []), *str(claims.get("scp", "")).split()}
        if self._roles and not self._roles & held:
            raise DeniedError(403, f"the token has none of the roles {', '.join(sorted(self._roles))}")
        self._good[own] = float(claims["exp"])
        while len(self._good) > TOKENS:
            self._good.popitem(last=False)

    async def _verified(self, token: bytes) -> dict[str, Any]:
        import jwt

        try:
            head = jwt.get_unverified_header(token)
            key = await self._key(str(head.get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=["RS256"], audience=self._audience, issuer=self._issuers,
                options={"require": ["exp", "iss", "aud"]}, leeway=30,
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise DeniedError(401, f"the token does not count: {type(error).__name__}") from error
        if claims.get("tid", self._tenant) != self._tenant:
            raise DeniedError(401, "the token is another tenant's")
        return claims

    async def _key(self, name: str) -> Any:
        async with self._lock:
            now = time.monotonic()
            stale = now - self._fetched > KEYS_SECONDS
            if (name not in self._keys or stale) and now - self._tried > REFRESH_SECONDS:
                self._tried = now
                try:
                    self._keys = await asyncio.to_thread(_fetch_keys, self._url)
                    self._fetched = now
                except (OSError, ValueError):
                    self._tried = now - REFRESH_SECONDS + AWAY_SECONDS
        if not self._keys:
            raise DeniedError(503, "Entra ID's keys cannot be fetched")
        if name not in self._keys:
            raise DeniedError(401, "the token is signed with a key that Entra ID does not publish")
        return self._keys[name]


def _fetch_keys(url: str) -> dict[str, Any]:
    """Key id → public key."""
    import jwt

    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  the scheme is checked where the URL is set
        published = json.loads(answer.read(1_000_000))
    try:
        return {str(key.key_id): key.key for key in jwt.PyJWKSet.from_dict(published).keys if key.key_type == "RSA"}
    except jwt.PyJWTError as error:
        raise ValueError(f"no key set: {error}") from error
