"""The way into the database: its URL, TLS and the password, the same for every client of Postgres.

TLS is part of the URL (`sslmode`, `sslrootcert`), which asyncpg and Postgres's own programs read alike:
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import asyncpg

from services.platform.database_password import NoPassword, Password, password_of
from services.platform.settings import Settings, WorkerSettings


class NotLetIn(ConnectionError):
    """This process may not, or will not, talk to the server; the message says why, and which setting to change."""


@dataclass(frozen=True, slots=True)
class DatabaseAccess:
    """How to get into one database. `url` names TLS, too; `password` is where each connection gets that of its own."""

    url: str
    password: Password | None = None
    pooled: bool = False  # by a pooler that gives a session for a transaction

    @classmethod
    def of(cls, settings: Settings) -> "DatabaseAccess":
        """As the settings say."""
        tls = {"sslmode": settings.database_tls, "sslrootcert": settings.database_ca}
        if settings.database_tls is None and settings.database_ca is not None:
            tls["sslmode"] = "verify-full"
        further = urlencode({name: value for name, value in tls.items() if value is not None}, quote_via=quote)
        pooled = isinstance(settings, WorkerSettings) and settings.database_pooler
        url, separator = settings.database_url, "&" if urlsplit(settings.database_url).query else "?"
        return cls(f"{url}{separator}{further}" if further else url, password_of(settings), pooled)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        """A connection; `options` are those of asyncpg.connect. Raises what it raises, and NotLetIn."""
        try:
            return await self._connect(options)
        except ssl.SSLCertVerificationError as error:
            raise NotLetIn(self._distrust(error)) from error

    async def _connect(self, options: dict[str, Any]) -> asyncpg.Connection:
        options |= {"ssl": self._verifying()}
        if self.password is None:
            return await asyncpg.connect(self.url, **options)
        try:
            password = await self.password.current()
            try:
                return await asyncpg.connect(self.url, password=password, **options)
            except asyncpg.InvalidAuthorizationSpecificationError:
                if not await self.password.renewed(password):
                    raise
                return await asyncpg.connect(self.url, password=await self.password.current(), **options)
        except asyncpg.InvalidAuthorizationSpecificationError as error:  # it may be in the middle of its rotation
            raise NotLetIn(f"{error}; see PIECEWORK_DATABASE_PASSWORD_FROM") from error
        except NoPassword as error:
            raise NotLetIn(_missing(error)) from error

    def _verifying(self) -> ssl.SSLContext | None:
        """The TLS of `verify-…`. asyncpg would read the CAs for each connection; those of RDS take it 30 ms."""
        query = dict(parse_qsl(urlsplit(self.url).query))
        mode, authorities = query.get("sslmode", ""), query.get("sslrootcert")
        if not mode.startswith("verify-") or authorities is None:
            return None
        return _context(
            mode == "verify-full",
            authorities,
            Path(authorities).stat().st_mtime_ns,  # so that new ones are seen
            query.get("sslcert"),
            query.get("sslkey"),
        )

    async def for_programs(self) -> tuple[str, dict[str, str]]:
        """The database for a program of Postgres's own: its `--dbname`, and the variables that must stay unseen.

        Raises NotLetIn if there is no password.
        """
        parts = urlsplit(self.url)
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        shown = parts.netloc.replace(f"{user}:{password}@", f"{user}@", 1) if password else parts.netloc
        query = dict(parse_qsl(parts.query))
        password = query.pop("password", unquote(password))
        if self.password is not None:
            password = await self._newest(self.password)
        url = parts._replace(netloc=shown, query=urlencode(query, quote_via=quote)).geturl()
        return url, {"PGPASSWORD": password} if password else {}

    @staticmethod
    async def _newest(password: Password) -> str:
        """As it is now: a program does not read it again when the server refuses what it was yesterday."""
        try:
            await password.renewed(await password.current())
            return await password.current()
        except NoPassword as error:
            raise NotLetIn(_missing(error)) from error

    def _distrust(self, error: ssl.SSLCertVerificationError) -> str:
        query = dict(parse_qsl(urlsplit(self.url).query))
        if error.verify_code in _OTHER_NAME:
            return (
                f"the certificate of the database's server is not for its name: {error.verify_message}; "
                "PIECEWORK_DATABASE_URL must name the server as its certificate does"
            )
        return (
            f"the certificate of the database's server is not trusted: {error.verify_message}; "
            f"the file of PIECEWORK_DATABASE_CA ({query.get('sslrootcert')}) must have the certificate of its issuer"
        )


def _missing(error: NoPassword) -> str:
    return f"the database's password (PIECEWORK_DATABASE_PASSWORD_FROM) is missing: {error}"


@lru_cache(maxsize=4)
def _context(named: bool, authorities: str, _: int, certificate: str | None, key: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authorities)
    context.check_hostname = named
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH: x509_vfy.h of OpenSSL


Place = str | Settings | DatabaseAccess


def access(place: Place) -> DatabaseAccess:
    """The way into a database that is given by its settings, or by a URL as it is."""
    if isinstance(place, DatabaseAccess):
        return place
    return DatabaseAccess(place) if isinstance(place, str) else DatabaseAccess.of(place)
