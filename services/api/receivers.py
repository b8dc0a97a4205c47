"""Checks the receivers that users name, when they are named: URLs, addresses of mail, topics."""

import socket
import unicodedata
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

from services.platform.addresses import is_public
from services.platform.problems import invalid
from services.platform.settings import ANYWHERE, Settings


def check_url(url: str, field: str, settings: Settings) -> None:
    """Raises a 422 for `field`. Host names are resolved when it is sent to, so only literal addresses are checked."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid(field, url, f"this is not a URL ({error}); write https://host/path") from error
    if parts.username is not None or parts.password is not None:
        raise invalid(field, _without_credentials(parts), "a webhook URL must not have a user or password; remove them")
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise invalid(field, url, "write an absolute URL with http or https, such as https://example.com/piecework")
    if not settings.webhook_private_addresses and _is_private(host):
        raise invalid(
            field, url, "webhooks may only go to public addresses, unless the operator of Piecework allows others"
        )
    if not settings.webhooks_may_use({"http": 80, "https": 443}[parts.scheme] if port is None else port):
        raise invalid(field, url, f"webhooks may only go to the ports {settings.webhook_ports}: use one of them")


def _without_credentials(parts: SplitResult) -> str:
    return parts._replace(netloc=f"…@{parts.netloc.rpartition('@')[2]}").geturl()


def _is_private(host: str) -> bool:
    name = (
        unicodedata.normalize("NFKC", host).rstrip(".").lower()
    )  # as IDNA reads it: full-width digits count as digits
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return not is_public(name)
    except ValueError:
        pass
    try:  # other spellings of an IPv4 address that resolvers take: 127.1, 2130706433, 0x7f000001
        return not is_public(socket.inet_ntoa(socket.inet_aton(name)))
    except OSError:
        return False


def check_topic(arn: str, field: str, settings: Settings) -> None:
    """Raises a 422 for `field` unless the operator of Piecework allows this topic."""
    allowed = [pattern.strip() for pattern in settings.alert_topics.split(",") if pattern.strip()]
    if not any(pattern == ANYWHERE or fnmatchcase(arn, pattern) for pattern in allowed):
        raise invalid(
            field, arn, "alerts may not use this topic: have the operator add its ARN to PIECEWORK_ALERT_TOPICS"
        )


def check_mail(addresses: list[str], field: str, settings: Settings) -> None:
    """Raises a 422 for `field` if no mail can be sent."""
    if settings.smtp_host is None:
        raise invalid(
            field,
            ", ".join(addresses),
            "this grid sends no e-mail: have the operator set PIECEWORK_SMTP_HOST and PIECEWORK_SMTP_FROM",
        )
