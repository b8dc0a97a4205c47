"""As for splitters: a bucket of the test's own, and no database."""

from tests.integration.common.splitters.conftest import settings

__all__ = ["settings"]
