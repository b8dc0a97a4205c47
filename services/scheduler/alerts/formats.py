"""How each kind of receiver wants a message: Slack's, Teams', e-mail, SNS."""

from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

SUBJECT_CHARACTERS_MAX = 100  # of SNS: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
SLACK_CHARACTERS_MAX = 35_000
SNS_BYTES_MAX = 200_000


def for_slack(payload: Mapping[str, Any]) -> dict[str, Any]:
    """https://api.slack.com/messaging/webhooks; https://api.slack.com/reference/surfaces/formatting#escaping"""
    data = payload["data"]
    return {"text": f"*{_escape(data['title'])}*\n{_escape(data['text'])}"[:SLACK_CHARACTERS_MAX]}


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def for_teams(payload: Mapping[str, Any]) -> dict[str, Any]:
    """An Adaptive Card for a workflow's webhook.

    https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
    """
    data = payload["data"]
    lines = [_block(line) for line in data["text"].split("\n")]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [_block(data["title"]) | {"weight": "Bolder", "size": "Medium"}, *lines],
    }
    content = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [content]}


def _block(text: str) -> dict[str, Any]:
    return {"type": "TextBlock", "text": text, "wrap": True}


def for_email(payload: Mapping[str, Any], message_id: str, sender: str, recipients: list[str]) -> EmailMessage:
    """A message of plain text; a repetition has the same Message-ID."""
    data = payload["data"]
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = _one_line(data["title"])
    message["Message-ID"] = f"<{message_id}@{sender.rpartition('@')[2].rstrip('>')}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers by machines
    message.set_content(f"{data['text']}\n\n-- \nPiecework, alert {data['alert']}\n")
    return message


def for_sns(payload: Mapping[str, Any]) -> tuple[str, str]:
    """The subject (printable ASCII, at most 100 characters) and the text."""
    data = payload["data"]
    subject = _one_line(data["title"]).encode("ascii", "replace").decode()[: SUBJECT_CHARACTERS_MAX - 1]
    return subject, data["text"].encode()[:SNS_BYTES_MAX].decode(errors="ignore")


def _one_line(text: str) -> str:
    return " ".join(text.split())
