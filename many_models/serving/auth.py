"""Who may ask: API keys, kept as hashes, and Entra ID's bearer tokens, checked against its published keys."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import time
import urllib.request
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from many_models.errors import ManyModelsError, SettingsError
from many_models.serving.api_keys import KeyFile, hash_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.settings import ServeSettings, Settings

REFRESH_SECONDS = 60.0  # an unknown signing key asks Entra ID again at most so often
AWAY_SECONDS = 5.0  # and when it did not answer
KEYS_SECONDS = 24 * 3600.0  # known signing keys are fetched again after so long
FETCH_SECONDS = 10.0  # that fetching them may take
MOST_KEY_BYTES, MOST_KEYS = 1_000_000, 200
TOKENS = 1_000  # verified tokens that are remembered
TOKEN_SECONDS = 300.0  # for so long at most: their signing key may be withdrawn

log = logging.getLogger(__name__)


class DeniedError(ManyModelsError):
    """A request that may not be answered: `status` is its HTTP status (401, 403, 503)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Authenticator:
    """Checks credentials. Raises SettingsError where the settings leave the service open to a network, or shut."""

    def __init__(self, settings: Settings, keys: Sequence[str] = ()) -> None:
        serve = settings.serve
        self._ways = set(serve.auth)
        if not self._ways and not is_loopback(serve.host):
            raise SettingsError(f"serve.auth is empty and serve.host {serve.host} is not a loopback address: set one")
        self._given = hash_keys(keys)
        self._file: KeyFile | None = None
        if "api_key" in self._ways:
            self._file = KeyFile(settings.path(serve.api_keys_file)) if serve.api_keys_file else None
            if not self._given and not (self._file and self._file.hashes):
                raise SettingsError(
                    "no API key: put keys, one a line, into the file serve.api_keys_file, or into "
                    "MANY_MODELS_SERVE_API_KEYS; on this machine alone `many-models serve --no-auth` asks for none"
                )
        self._entra = Entra(serve) if "entra" in self._ways else None

    @property
    def is_open(self) -> bool:
        """Whether requests need no key and no token."""
        return not self._ways

    async def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raise DeniedError unless `headers` (lower-case names) carry a valid key or token."""
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
            from_file = self._file.hashes if self._file else frozenset[bytes]()
            own = hashlib.sha256(key).digest()
            # every one is compared, each in constant time: how long it takes tells nothing
            if sum(hmac.compare_digest(own, known) for known in self._given | from_file):
                return
            if self._file and self._file.is_missed:
                raise DeniedError(503, "the file of API keys cannot be read")
        raise DeniedError(401, "this key is not known")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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
        self._refreshing: asyncio.Task[None] | None = None
        self._good: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, token: bytes) -> None:
        """Raise DeniedError unless `token` is valid now."""
        own = hashlib.sha256(token).digest()
        if (until := self._good.get(own)) is not None and time.time() < until:
            return
        claims = await self.claims(token)
        roles, scopes = claims.get("roles", []), claims.get("scp", "")
        held = {role for role in (roles if isinstance(roles, list) else []) if isinstance(role, str)}
        held |= set(scopes.split()) if isinstance(scopes, str) else set()
        if self._roles and not self._roles & held:
            raise DeniedError(403, f"the token has none of the roles {', '.join(sorted(self._roles))}")
        self._good[own] = min(int(claims["exp"]), time.time() + TOKEN_SECONDS)
        while len(self._good) > TOKENS:
            self._good.popitem(last=False)

    async def claims(self, token: bytes) -> dict[str, Any]:
        """What `token` says, where it is one of the tenant for the audience. Raises DeniedError."""
        import jwt

        try:
            head = jwt.get_unverified_header(token)
            key = await self._key(str(head.get("kid", "")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["RS256"],
                audience=self._audience,
                issuer=self._issuers,
                options={"require": ["exp", "iss", "aud"]},
                leeway=30,
            )
        except DeniedError:
            raise
        except Exception as error:  # whatever a stranger's token makes of the library: it is not one that counts
            raise DeniedError(401, f"the token is not valid: {type(error).__name__}") from error
        if claims.get("tid", self._tenant) != self._tenant:
            raise DeniedError(401, "the token is another tenant's")
        return claims

    async def _key(self, name: str) -> Any:
        """The signing key of that name. One that is known is never waited for."""
        stale = time.monotonic() - self._fetched > KEYS_SECONDS
        if name in self._keys:
            if stale and (self._refreshing is None or self._refreshing.done()):
                self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
            return self._keys[name]
        if self._keys and self._lock.locked():
            raise DeniedError(503, "Entra ID's keys are being fetched: ask again")
        await self._refresh()
        if not self._keys:
            raise DeniedError(503, "Entra ID's keys cannot be fetched")
        if name not in self._keys:
            raise DeniedError(401, "the token is signed with a key that Entra ID does not publish")
        return self._keys[name]

    async def _refresh(self) -> None:
        """Fetch the keys, unless that was tried a moment ago; those that are known stay where it fails."""
        async with self._lock:
            now = time.monotonic()
            if now - self._tried <= REFRESH_SECONDS:
                return
            self._tried = now
            try:
                self._keys = await asyncio.to_thread(_fetch_keys, self._url)
            except Exception as error:  # noqa: BLE001  whatever an odd answer makes of the parsers
                self._tried = now - REFRESH_SECONDS + AWAY_SECONDS
                log.warning("Entra ID's keys cannot be fetched: %s", type(error).__name__)
            else:
                self._fetched = now


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Keys come from where the settings say, over TLS: a redirect could lead anywhere."""

    def redirect_request(self, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  it looks at none
        """None."""


def _fetch_keys(url: str) -> dict[str, Any]:
    """Key id → public key. Raises ValueError where there is none, OSError or HTTPException as urllib does."""
    until, content = time.monotonic() + FETCH_SECONDS, b""
    with urllib.request.build_opener(_NoRedirects).open(url, timeout=5) as answer:
        while part := answer.read1(65_536):
            content += part
            if len(content) > MOST_KEY_BYTES or time.monotonic() > until:
                raise ValueError("the key set is too large, or comes too slowly")
    published = json.loads(content)
    entries = published.get("keys") if isinstance(published, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no key set")  # noqa: TRY004  a content, not a type, is wrong
    keys = dict(found for entry in entries[:MOST_KEYS] if (found := _public_key(entry)))
    if not keys:
        raise ValueError("a key set without a key that can be used")
    return keys


def _public_key(entry: object) -> tuple[str, Any] | None:
    """Name and key of an entry for signatures; None for one that cannot be used, which leaves the others alone."""
    import jwt

    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid"), str):
        return None
    try:
        key = jwt.PyJWK.from_dict(entry)
    except Exception:  # noqa: BLE001  whatever is odd in it
        return None
    return (entry["kid"], key.key) if key.key_type == "RSA" and hasattr(key.key, "verify") else None
