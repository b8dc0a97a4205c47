"""One try to deliver a message, by the channel of its rule."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import aiosmtplib

from services.engine.alerts import unseal
from services.engine.webhooks import signing_secrets
from services.platform import effects
from services.platform.aws import open_client
from services.platform.database import dump_json
from services.platform.secret_values import resolve_own
from services.platform.settings import Settings
from services.scheduler.alerts.formats import for_email, for_slack, for_sns, for_teams
from services.scheduler.outgoing import REQUEST_SECONDS, Client, Failure, Post, send, sign

Message = Mapping[str, Any]  # a row of alert_messages, with channel, address and secrets of its rule


class NoServer(Exception):
    """No SMTP server is set."""


async def deliver(client: Client, message: Message, settings: Settings) -> Failure | None:
    """Why the try failed, or for whom; None: it went well."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS * 2):
            return await _CHANNELS[message["channel"]](client, message, settings)
    except Exception as error:  # whatever is wrong with one receiver must not hold up the others
        return Failure.of(error)


async def _webhook(client: Client, message: Message, settings: Settings) -> Failure | None:
    endpoint = {**message, "endpoint_id": message["alert_id"], "overlapping": False}
    body = dump_json(message["payload"])
    headers = sign(f"msg_{message['message_id'].hex}", body, signing_secrets(endpoint, settings.secret_key))
    return await _post(client, message, message["address"], body, headers, settings)


async def _slack(client: Client, message: Message, settings: Settings) -> Failure | None:
    url = unseal(message["sealed"], settings.secret_key)
    return await _post(client, message, url, dump_json(for_slack(message["payload"])), {}, settings)


async def _teams(client: Client, message: Message, settings: Settings) -> Failure | None:
    url = unseal(message["sealed"], settings.secret_key)
    return await _post(client, message, url, dump_json(for_teams(message["payload"])), {}, settings)


async def _post(
    client: Client, message: Message, url: str, body: str, headers: Mapping[str, str], settings: Settings
) -> Failure | None:
    _, failure = await send(client, Post(url, body, headers, message["tries"]), "alert", settings)
    return failure


async def _email(_: Client, message: Message, settings: Settings) -> Failure | None:
    if settings.smtp_host is None or settings.smtp_from is None:
        raise NoServer("set PIECEWORK_SMTP_HOST and PIECEWORK_SMTP_FROM for the schedulers, as the API has them")
    recipients = message["address"].split(", ")
    email = for_email(message["payload"], message["message_id"].hex, settings.smtp_from, recipients)
    password = settings.smtp_password
    if settings.smtp_password_from is not None:
        password = await resolve_own(settings.smtp_password_from, settings)
    with effects.passing("smtp", "alert"):
        refused, _answer = await aiosmtplib.send(
            email,
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_user,
            password=password,
            use_tls=settings.smtp_tls == "tls",
            start_tls=settings.smtp_tls == "starttls",
            tls_context=ssl.create_default_context(cafile=settings.smtp_ca),
            timeout=REQUEST_SECONDS,
        )
    # If all were refused, it has raised SMTPRecipientsRefused.
    return Failure(f"the server refused {', '.join(sorted(refused))}", partial=True) if refused else None


async def _sns(_: Client, message: Message, settings: Settings) -> Failure | None:
    topic: str = message["address"]
    subject, text = for_sns(message["payload"])
    attributes = {"type": {"DataType": "String", "StringValue": message["event"]}}
    request: dict[str, Any] = {"TopicArn": topic, "Subject": subject, "Message": text, "MessageAttributes": attributes}
    if topic.endswith(".fifo"):
        alert_id: UUID = message["alert_id"]
        request |= {"MessageGroupId": str(alert_id), "MessageDeduplicationId": message["message_id"].hex}
    async with open_client("sns", settings, topic.split(":")[3]) as sns:
        await sns.publish(**request)
    return None


_CHANNELS: dict[str, Callable[[Client, Message, Settings], Awaitable[Failure | None]]] = {
    "webhook": _webhook,
    "slack": _slack,
    "teams": _teams,
    "email": _email,
    "sns": _sns,
}
