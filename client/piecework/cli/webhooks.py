"""`piecework webhooks`: who is told when a job ends."""

from typing import Annotated, cast
from uuid import UUID

import typer

from piecework.cli import refs
from piecework.cli.options import All, DeliveryId, EndpointId, Limit, Since
from piecework.cli.output import newer
from piecework.cli.session import Session, command, group
from piecework.shapes import CreatedWebhookEndpoint, Delivery, DeliveryState, Event, WebhookEndpoint


def create(
    session: Session,
    url: Annotated[str, typer.Argument(metavar="URL")],
    event: Annotated[
        list[str] | None, typer.Option(help="Event to deliver; repeatable; default: every end of a job.")
    ] = None,
) -> None:
    """Deliver events to a URL; prints the endpoint and the secret that signs (Standard Webhooks)."""
    events = cast("list[Event] | None", event)  # the API checks them
    session.show(
        session.client.create_webhook_endpoint(url, events=events), lambda endpoint: _show_new(session, endpoint)
    )


def _show_new(session: Session, endpoint: CreatedWebhookEndpoint) -> None:
    from piecework.display import facts

    facts(session.out, [("endpoint", endpoint["endpoint_id"]), ("secret", endpoint["secret"])])
    session.note("the secret is shown only now")


def list_endpoints(session: Session, everything: All = False, limit: Limit = 50) -> None:
    """List webhook endpoints."""
    listing = session.client.list_webhook_endpoints()
    session.show_list(listing, everything, limit, lambda endpoints: _show_endpoints(session, endpoints))


def _show_endpoints(session: Session, endpoints: list[WebhookEndpoint]) -> None:
    from piecework.display import relative, table

    now = session.client.now()
    table(
        session.out,
        ["ENDPOINT_ID", "~URL", "~?EVENTS", "?ENABLED", "?CREATED", "~?ERROR"],
        (
            (
                endpoint["endpoint_id"],
                endpoint["url"],
                ", ".join(endpoint["events"]),
                _enabled(endpoint),
                relative(endpoint["created_at"], now),
                endpoint.get("disabled_reason") or endpoint.get("last_error") or "",
            )
            for endpoint in endpoints
        ),
    )


def _enabled(endpoint: WebhookEndpoint) -> str:
    if not endpoint["enabled"]:
        return "no"
    return "paused" if endpoint.get("paused_until") else "yes"


def show(session: Session, endpoint_id: EndpointId) -> None:
    """Show a webhook endpoint."""
    session.show(session.client.get_webhook_endpoint(endpoint_id), lambda endpoint: _show(session, endpoint))


def _show(session: Session, endpoint: WebhookEndpoint) -> None:
    from piecework.display import facts, moment

    now = session.client.now()

    def at(name: str) -> str | None:
        time = cast("str | None", endpoint.get(name))
        return time and moment(time, now)

    facts(
        session.out,
        [
            ("endpoint", endpoint["endpoint_id"]),
            ("url", endpoint["url"]),
            ("events", ", ".join(endpoint["events"])),
            ("enabled", _enabled(endpoint)),
            ("disabled", at("disabled_at")),
            ("reason", endpoint.get("disabled_reason")),
            ("paused until", at("paused_until")),
            ("failing since", at("failing_since")),
            ("failed tries", endpoint.get("failures") or None),
            ("error", endpoint.get("last_error")),
            ("created", at("created_at")),
            ("old secret until", at("previous_until")),
        ],
    )


def rotate(
    session: Session,
    endpoint_id: EndpointId,
    overlap: Annotated[
        str, typer.Option(metavar="DURATION", help="How long both secrets sign; 0 if the old one has leaked.")
    ] = "24h",
) -> None:
    """Replace an endpoint's secret; prints the new one."""
    session.show(
        session.client.rotate_webhook_secret(endpoint_id, overlap_seconds=overlap),
        lambda endpoint: _show_new(session, endpoint),
    )


def enable(session: Session, endpoint_id: EndpointId) -> None:
    """Send to a disabled or paused endpoint again, at once."""
    endpoint = session.client.enable_webhook_endpoint(endpoint_id)
    session.show(endpoint, lambda endpoint: print(f"{endpoint['endpoint_id']} enabled"))


def delete(session: Session, endpoint_id: EndpointId) -> None:
    """Deliver nothing more to an endpoint."""
    session.client.delete_webhook_endpoint(endpoint_id)
    session.show_done(f"deleted {endpoint_id}")


def list_deliveries(
    session: Session,
    endpoint_id: Annotated[
        UUID | None, refs.ENDPOINT.option("--endpoint", help="Only to this endpoint."), refs.ENDPOINT
    ] = None,
    job_id: Annotated[UUID | None, refs.JOB.option("--job", help="Only of this job."), refs.JOB] = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only in this state.")] = None,
    since: Since = None,
    everything: All = False,
    limit: Limit = 50,
) -> None:
    """List deliveries, newest first."""
    listing = session.client.list_webhook_deliveries(endpoint_id=endpoint_id, job_id=job_id, state=state)
    session.show_list(
        newer(listing, since), everything, limit, lambda deliveries: _show_deliveries(session, deliveries)
    )


def _show_deliveries(session: Session, deliveries: list[Delivery]) -> None:
    from piecework import display

    now = session.client.now()
    display.table(
        session.out,
        ["DELIVERY_ID", "~EVENT", "STATE", ">?TRIES", ">?STATUS", "?CREATED", "~?ERROR"],
        (
            (
                delivery["delivery_id"],
                delivery["event"],
                display.state(delivery["state"]),
                delivery["tries"],
                delivery["status_code"],
                display.relative(delivery["created_at"], now),
                delivery["error"] or "",
            )
            for delivery in deliveries
        ),
    )


def redeliver(session: Session, delivery_id: DeliveryId) -> None:
    """Send a delivery again."""
    delivery = session.client.redeliver(delivery_id)
    session.show(delivery, lambda delivery: print(f"{delivery['delivery_id']} {delivery['state']}"))


def register(app: typer.Typer) -> None:
    webhooks = group(app, "webhooks", "Signed messages about the ends of jobs.")
    command(webhooks, "create")(create)
    command(webhooks, "list")(list_endpoints)
    command(webhooks, "show")(show)
    command(webhooks, "rotate")(rotate)
    command(webhooks, "enable")(enable)
    command(webhooks, "delete")(delete)
    command(webhooks, "deliveries")(list_deliveries)
    command(webhooks, "redeliver")(redeliver)
