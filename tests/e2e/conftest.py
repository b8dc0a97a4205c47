"""A database for each test: real processes work on it, and are cut off with it."""

import pytest


@pytest.fixture
def database_url(own_database_url: str) -> str:
    return own_database_url
