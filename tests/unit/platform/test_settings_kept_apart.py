"""Each service's settings hold the secrets that it uses, and no others."""

from services.platform.settings import ApiSettings, Settings, WorkerSettings


def test_only_the_api_has_the_operators_first_key() -> None:
    assert "bootstrap_api_key" in ApiSettings.model_fields
    for kind in (Settings, WorkerSettings):  # those of scheduler and stats service, of workers
        assert "bootstrap_api_key" not in kind.model_fields
