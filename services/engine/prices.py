"""AWS's list prices in US dollars, of the region and the date that prices.json says."""

from datetime import date
from functools import cache
from pathlib import Path

from pydantic import BaseModel


class Prices(BaseModel):
    """By the hour, the month (of a GB, if so named) or the request; what is not listed has no known price."""

    region: str
    date: date
    note: str
    instance_hour: dict[str, float]  # On-Demand, by type; Spot's prices change all the time, and are not listed
    database_hour: dict[str, float]  # of one zone, by class
    database_gb_month: float
    disk_gb_month: float
    nat_gateway_hour: float
    endpoint_hour: float  # in one zone
    load_balancer_hour: float
    address_hour: float
    secret_month: float
    alarm_month: float
    snapshot_gb_month: float
    s3_gb_month: float
    s3_put: float  # and other requests that write, and listings
    s3_get: float
    sqs_request: float


@cache
def list_prices() -> Prices:
    return Prices.model_validate_json((Path(__file__).parent / "prices.json").read_bytes())
