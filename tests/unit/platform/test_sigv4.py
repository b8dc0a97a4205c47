"""Requests are signed as AWS's own examples are, and as botocore signs them."""

from hashlib import sha256
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from services.platform.sigv4 import Scope, authorization

NOTHING = sha256(b"").hexdigest()
AT = {"host": "examplebucket.s3.amazonaws.com", "x-amz-date": "20130524T000000Z", "x-amz-content-sha256": NOTHING}
WELCOME = sha256(b"Welcome to Amazon S3.").hexdigest()
STORED = {
    "date": "Fri, 24 May 2013 00:00:00 GMT",
    "x-amz-storage-class": "REDUCED_REDUNDANCY",
    "x-amz-content-sha256": WELCOME,
}
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "payload_sha256", "signature"),
    [
        pytest.param(
            *("GET", "/test.txt", "", {"range": "bytes=0-9"}, NOTHING),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            id="an object",
        ),
        pytest.param(
            *("PUT", "/test%24file.text", "", STORED, WELCOME),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
            id="putting an object",
        ),
        pytest.param(
            *("GET", "/", "max-keys=2&prefix=J", {}, NOTHING),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            id="a listing",
        ),
    ],
)
def test_the_examples_of_s3s_documentation_are_signed_as_there(
    method: str, path: str, query: str, headers: dict[str, str], payload_sha256: str, signature: str
) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html"""
    signed = authorization(
        *("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", Scope("us-east-1", "s3")),
        *(method, path, query, AT | headers, payload_sha256),
    )
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ")
    assert signed.endswith(f", Signature={signature}")


@given(
    key=TEXTS,
    version=st.none() | TEXTS,
    headers=st.dictionaries(st.sampled_from(["range", "if-match", "content-type"]), VALUES),
    body=st.binary(max_size=20),
    access_key=st.from_regex(r"[A-Z0-9]{16,20}", fullmatch=True),
    secret_key=VALUES,
    token=st.none() | VALUES,
    region=st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1"]),
)
def test_any_request_is_signed_as_botocore_signs_it(
    key: str,
    version: str | None,
    headers: dict[str, str],
    body: bytes,
    access_key: str,
    secret_key: str,
    token: str | None,
    region: str,
) -> None:
    path = f"/bucket/{quote(key, safe='/~')}"
    query = "" if version is None else f"versionId={quote(version, safe='')}"
    example = AWSRequest("PUT", f"https://s3.test:8443{path}{query and '?'}{query}", headers, body)
    S3SigV4Auth(Credentials(access_key, secret_key, token), "s3", region).add_auth(example)

    sent = {name.lower(): value for name, value in example.headers.items()}
    expected = sent.pop("authorization")
    assert expected == authorization(
        *(access_key, secret_key, Scope(region, "s3"), "PUT", path, query, {"host": "s3.test:8443"} | sent),
        sha256(body).hexdigest(),
    )
