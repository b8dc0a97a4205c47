"""AWS Signature Version 4, in headers: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html

It takes a path and a query in canonical form. For S3 that is what is sent: S3's paths are encoded once, and a key's
`.`, `..` and `//` stay.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

ALGORITHM = "AWS4-HMAC-SHA256"
_END = "aws4_request"


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a signature is valid."""

    region: str
    service: str


def authorization(
    access_key: str,
    secret_key: str,
    scope: Scope,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload_sha256: str,
) -> str:
    """The header Authorization for a request with these headers, all of which it signs.

    Their names are in lower case; `host` and `x-amz-date`, which has the form 20130524T000000Z, must be among them.
    """
    stamp = headers["x-amz-date"]
    day = stamp[:8]
    names = sorted(headers)
    canonical_headers = "".join([f"{name}:{' '.join(headers[name].split())}\n" for name in names])
    signed = ";".join(names)
    canonical = f"{method}\n{path}\n{query}\n{canonical_headers}\n{signed}\n{payload_sha256}"
    valid = f"{day}/{scope.region}/{scope.service}/{_END}"
    to_sign = f"{ALGORITHM}\n{stamp}\n{valid}\n{sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(secret_key, day, scope), to_sign.encode(), "sha256").hex()
    return f"{ALGORITHM} Credential={access_key}/{valid}, SignedHeaders={signed}, Signature={signature}"


@lru_cache(maxsize=8)  # it changes once a day, and with the credentials
def _signing_key(secret_key: str, day: str, scope: Scope) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (day, scope.region, scope.service, _END):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
