"""Quotas of keys and shares."""

from services.api.pagination import Page
from services.api.shapes.row import Row
from services.engine.quotas import KeyQuotas, Quota, ShareQuotas


class KeyUse(Row):
    """What a key may use, and uses."""

    name: str
    own: KeyQuotas
    quotas: list[Quota]


class Share(Row):
    """A share whose jobs have quotas of their own together."""

    name: str
    own: ShareQuotas


class ShareUse(Share):
    """What the jobs of a share may use together, and use."""

    quotas: list[Quota]


class SharePage(Page[Share]):
    """Shares that have quotas of their own, by name."""
