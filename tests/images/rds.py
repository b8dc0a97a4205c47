"""RDS's way into Postgres: TLS alone, and for users of IAM a signed token in place of a password."""

import asyncio
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.certificates import Authority
from tests.storm.database_proxy import DatabaseProxy

PORT = 15432
OWNER = "piecework_owner"

_CANCEL = 80877102
_ASK_FOR_PASSWORD = b"R" + (8).to_bytes(4) + (3).to_bytes(4)  # AuthenticationCleartextPassword


class Rds(DatabaseProxy):
    """`refused` are those who were not let in. https://www.postgresql.org/docs/current/protocol-message-formats.html"""

    def __init__(self, server_url: str, credentials: Credentials) -> None:
        super().__init__(server_url)
        self.place = ""
        self.owner_password = ""
        self.let_in: list[str] = []
        self.refused: list[str] = []
        self._credentials = credentials

    def answer_as(self, place: str, authority: Authority) -> None:
        """Be the database of this name and port from now on."""
        self.place = place
        self._tls = authority.server(place.partition(":")[0])

    async def greet(
        self, reader: asyncio.StreamReader, service: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        startup = await _packet(reader)
        if int.from_bytes(startup[4:8]) != _CANCEL:
            words = startup[8:].split(b"\0")
            user = dict(zip(words[::2], words[1::2], strict=False))[b"user"].decode()
            service.write(_ASK_FOR_PASSWORD)
            await reader.readexactly(1)
            password = (await _packet(reader))[4:-1].decode()
            known = password == self.owner_password if user == OWNER else self._is_token(user, password)
            (self.let_in if known else self.refused).append(user)
            if not known:
                said = f'SFATAL\0C28P01\0MPAM authentication failed for user "{user}"\0\0'.encode()
                service.write(b"E" + (len(said) + 4).to_bytes(4) + said)
                await service.drain()
                raise ConnectionRefusedError
        server.write(startup)

    def _is_token(self, user: str, token: str) -> bool:
        """Whether it is a request to connect, of this user to this place, that is signed with the role's key."""
        signed, _, signature = token.rpartition("&X-Amz-Signature=")
        url = urlsplit(f"https://{signed}")
        query = dict(parse_qsl(url.query))
        if (url.netloc, query.get("Action"), query.get("DBUser")) != (self.place, "connect", user):
            return False
        region = query["X-Amz-Credential"].split("/")[2]
        request = AWSRequest("GET", url.geturl())
        request.context["timestamp"] = query["X-Amz-Date"]
        signer = SigV4QueryAuth(self._credentials, "rds-db", region)
        return signature == signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """A message without its type: its length, which counts itself, and its body."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length) - 4)
