"""A record function that knows nothing of the grid it runs on: an order as the month-end needs it."""

from typing import Any


def settle(order: dict[str, Any]) -> dict[str, Any] | None:
    """The order with its month and net amount; None if it was cancelled. Raises ValueError for a bad quantity.

    From CSV all values are text, from Parquet they have types: both are taken.
    """
    if order["status"] == "cancelled":
        return None
    quantity = int(order["quantity"])
    gross = quantity * int(order["unit_cents"])
    return {
        "order_id": int(order["order_id"]),
        "month": str(order["placed_at"])[:7],
        "country": order["country"],
        "quantity": quantity,
        "net_cents": (gross * (100 - int(order["discount_percent"])) + 50) // 100,
    }
