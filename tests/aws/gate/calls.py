"""What a request to AWS asks for: the operation, and the IAM actions that it needs on which resources.

Actions and resources are those of the Service Authorization Reference,
https://docs.aws.amazon.com/service-authorization/latest/reference/. A request that is not known here has no answer.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree

import orjson
from botocore.session import get_session

from tests.aws.gate.policy import Need, UnknownToGate

ACCOUNT, REGION = "000000000000", "us-east-1"

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request; names of headers are in lower case."""

    method: str
    path: str  # not decoded
    query: Query
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """An operation, by its name in botocore's model of `service`, and all that it needs."""

    service: str
    operation: str
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """An Auto Scaling group."""

    arn: str
    tags: Mapping[str, str]


# The group with this name, or with this instance; None if there is none.
FindGroup = Callable[[str | None, str | None], Awaitable[Group | None]]


def caller_of(request: Request) -> tuple[str, str]:
    """The access key and the service in a signature of version 4: of a header, of a link or of a form."""
    signed = re.search(r"^AWS4-HMAC-SHA256 Credential=([^,\s]+)", request.headers.get("authorization", ""))
    credential = (
        signed[1] if signed else request.query.get("X-Amz-Credential") or _form(request).get("x-amz-credential")
    )
    if not credential:
        raise UnknownToGate(f"who signed {request.method} {request.path}")
    key, _, _, service, _ = credential.split("/")
    return key, service


async def read_call(request: Request, service: str, find_group: FindGroup) -> Call:
    """Raises UnknownToGate."""
    match service:
        case "s3":
            return _s3(request)
        case "autoscaling":
            return await _autoscaling(dict(parse_qsl(request.body.decode())), find_group)
        case "sts":
            return _sts(dict(parse_qsl(request.body.decode())))
        case "sqs" | "secretsmanager" | "ssm":
            return _json(service, request)
    raise UnknownToGate(f"the service {service}")


@cache
def operations(service: str) -> frozenset[str]:
    """All operations of a service."""
    return frozenset(get_session().get_service_model(service).operation_names)


# Without the marks, the query of a request names an operation's arguments.
_S3_MARKS = ("delete", "uploads", "uploadId", "partNumber", "policy", "acl", "lifecycle", "versioning", "tagging")
_S3_ARGUMENTS = {
    *("list-type", "prefix", "start-after", "continuation-token", "max-keys", "delimiter", "encoding-type", "marker"),
    *("key-marker", "upload-id-marker", "max-uploads", "part-number-marker", "max-parts", "versionId", "x-id"),
    *("response-content-disposition", "response-content-type"),
}
_S3_SIGNATURE = re.compile(r"X-Amz-(Algorithm|Credential|Date|Expires|SignedHeaders|Signature|Security-Token)")
# None of these asks for a right of its own, as x-amz-acl or x-amz-tagging would.
_S3_HEADERS = re.compile(
    r"x-amz-(content-sha256|date|security-token|meta-.*|checksum-.*|sdk-checksum-algorithm|trailer|copy-source.*"
    r"|decoded-content-length|mp-object-size|expected-bucket-owner|source-expected-bucket-owner|user-agent)"
)

_S3_OF_BUCKETS = {
    "GET": ("ListObjectsV2", "s3:ListBucket"),
    "GET uploads": ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
    "GET policy": ("GetBucketPolicy", "s3:GetBucketPolicy"),
    "GET acl": ("GetBucketAcl", "s3:GetBucketAcl"),
    "GET lifecycle": ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration"),
    "HEAD": ("HeadBucket", "s3:ListBucket"),
    "PUT": ("CreateBucket", "s3:CreateBucket"),
    "PUT policy": ("PutBucketPolicy", "s3:PutBucketPolicy"),
    "PUT versioning": ("PutBucketVersioning", "s3:PutBucketVersioning"),
    "PUT lifecycle": ("PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
    "DELETE": ("DeleteBucket", "s3:DeleteBucket"),
}
_S3_OF_OBJECTS = {
    "GET": ("GetObject", "s3:GetObject"),
    "GET uploadId": ("ListParts", "s3:ListMultipartUploadParts"),
    "HEAD": ("HeadObject", "s3:GetObject"),
    "PUT": ("PutObject", "s3:PutObject"),
    "PUT partNumber uploadId": ("UploadPart", "s3:PutObject"),
    "PUT acl": ("PutObjectAcl", "s3:PutObjectAcl"),
    "PUT tagging": ("PutObjectTagging", "s3:PutObjectTagging"),
    "POST uploads": ("CreateMultipartUpload", "s3:PutObject"),
    "POST uploadId": ("CompleteMultipartUpload", "s3:PutObject"),
    "DELETE": ("DeleteObject", "s3:DeleteObject"),
    "DELETE uploadId": ("AbortMultipartUpload", "s3:AbortMultipartUpload"),
}
_S3_COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}


def _s3(request: Request) -> Call:
    arguments = [name for name in request.query if name not in _S3_MARKS and not _S3_SIGNATURE.fullmatch(name)]
    headers = [name for name in request.headers if name.startswith("x-amz-") and not _S3_HEADERS.fullmatch(name)]
    if unknown := [*(set(arguments) - _S3_ARGUMENTS), *headers]:
        raise UnknownToGate(f"{unknown} in {request.method} {request.path}")
    bucket, _, key = unquote(request.path).removeprefix("/").partition("/")
    what = " ".join((request.method, *sorted(set(_S3_MARKS) & set(request.query))))
    if not bucket and what == "GET":
        return Call("s3", "ListBuckets", (_need("s3:ListAllMyBuckets", "*"),))
    if not key and what == "POST delete":
        keys = [each.text or "" for each in ElementTree.fromstring(request.body).iterfind("{*}Object/{*}Key")]
        return Call("s3", "DeleteObjects", tuple(_need("s3:DeleteObject", f"{bucket}/{each}") for each in keys))
    if not key and what == "POST" and (form := _form(request)):
        target = form["key"].replace("${filename}", form["filename"])
        return Call("s3", "PutObject", (_need("s3:PutObject", f"{bucket}/{target}"),))
    table = _S3_OF_OBJECTS if key else _S3_OF_BUCKETS
    if what not in table:
        raise UnknownToGate(f"{what} of {'an object' if key else 'a bucket'}: {request.path}")
    operation, action = table[what]
    if "versionId" in request.query:
        action += "Version"
    context = {
        f"s3:{name}": request.query[name] for name in ("prefix", "delimiter", "max-keys") if name in request.query
    }
    needs = [_need(action, f"{bucket}/{key}" if key else bucket, **context)]
    if source := request.headers.get("x-amz-copy-source"):
        place, _, version = source.partition("?")
        operation = _S3_COPIES[operation]
        read = "s3:GetObjectVersion" if version else "s3:GetObject"
        needs.append(_need(read, unquote(place).removeprefix("/")))
    return Call("s3", operation, tuple(needs))


def _need(action: str, place: str, **context: str) -> Need:
    """On a bucket, an object, or `*`."""
    resource = place if place == "*" else f"arn:aws:s3:::{place}"
    return Need(action, resource, {"aws:ResourceAccount": ACCOUNT} | context)


def _form(request: Request) -> dict[str, str]:
    """The fields of a form, and the name of its file; nothing of any other request."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return {}
    fields = re.findall(rb'name="([^"]*)"[^\r]*\r\n(?:[^\r\n]+\r\n)*\r\n(.*?)\r\n--', request.body, re.DOTALL)
    named = re.search(rb'filename="([^"]*)"', request.body)
    found = {name.decode().lower(): value.decode() for name, value in fields if name != b"file"}
    return found | {"filename": named[1].decode() if named else ""}


def _json(service: str, request: Request) -> Call:
    operation = request.headers.get("x-amz-target", "").rpartition(".")[2]
    if operation not in operations(service):
        raise UnknownToGate(f"{operation or request.path} of {service}")
    arguments: dict[str, Any] = orjson.loads(request.body or b"{}")
    match arguments:
        case {"QueueUrl": str(url)}:
            resource = _arn("sqs", url.rpartition("/")[2])
        case {"QueueName": str(name)}:
            resource = _arn("sqs", name)
        case {"SecretId": str(arn)} if arn.startswith("arn:"):
            resource = arn
        case {"SecretId": str(name)}:
            resource = _arn("secretsmanager", f"secret:{name}-??????")
        case {"Name": str(name)} if service == "ssm":
            resource = _arn("ssm", f"parameter/{name.removeprefix('/')}")
        case _ if operation.startswith("List"):
            resource = "*"
        case _:
            raise UnknownToGate(f"of what {operation} of {service} is: {arguments}")
    # A batch needs the action of a single call.
    action = f"{service}:{operation.removesuffix('Batch')}"
    return Call(service, operation, (Need(action, resource, {"aws:ResourceAccount": ACCOUNT}),))


async def _autoscaling(arguments: Mapping[str, str], find_group: FindGroup) -> Call:
    operation = arguments.get("Action", "")
    if operation not in operations("autoscaling"):
        raise UnknownToGate(f"{operation or arguments} of autoscaling")
    if operation.startswith("Describe"):
        return Call("autoscaling", operation, (Need(f"autoscaling:{operation}", "*"),))
    name, instance = arguments.get("AutoScalingGroupName"), arguments.get("InstanceId")
    if not name and not instance:
        raise UnknownToGate(f"of what {operation} is: {arguments}")
    group = await find_group(name, instance)
    if group is None:
        group = Group(_arn("autoscaling", f"autoScalingGroup:none:autoScalingGroupName/{name or ''}"), {})
    context = {"aws:ResourceAccount": ACCOUNT}
    return Call("autoscaling", operation, (Need(f"autoscaling:{operation}", group.arn, context, group.tags),))


def _sts(arguments: Mapping[str, str]) -> Call:
    match arguments:
        case {"Action": "AssumeRole", "RoleArn": str(arn)}:
            return Call("sts", "AssumeRole", (Need("sts:AssumeRole", arn, {"aws:ResourceAccount": ACCOUNT}),))
    raise UnknownToGate(f"{arguments.get('Action')} of sts")


def _arn(service: str, name: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{name}"
