"""As for splitters: a bucket of the test's own, and no database."""

from tests.integration.inputs.conftest import settings

__all__ = ["settings"]
