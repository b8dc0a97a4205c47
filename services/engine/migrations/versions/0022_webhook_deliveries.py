"""Indexes by which deliveries are listed, taken and deleted without sorting all."""

from services.engine.migrations.operations import build_index

revision = "0022"
down_revision = "0021"

INDEXES = {
    "webhook_deliveries_created": "webhook_deliveries (created_at, delivery_id)",
    "webhook_deliveries_endpoint": "webhook_deliveries (endpoint_id, created_at, delivery_id)",
    "webhook_deliveries_job": "webhook_deliveries (job_id, created_at, delivery_id)",
    "webhook_deliveries_pending": "webhook_deliveries (endpoint_id, next_try_at) WHERE state = 'pending'",
    "webhook_deliveries_give_up": "webhook_deliveries (endpoint_id, give_up_at) WHERE state = 'pending'",
}


def upgrade() -> None:
    for name, on in INDEXES.items():
        build_index(name, on)
