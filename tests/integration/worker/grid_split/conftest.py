"""As for splitters: a bucket of the test's own, and no database."""

from tests.integration.common.splitters.conftest import aws, settings, shared_aws

__all__ = ["aws", "settings", "shared_aws"]
