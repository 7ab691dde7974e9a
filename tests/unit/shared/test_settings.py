"""Settings: nested, validated at the start, no default secrets in production."""

import pytest
from pydantic import ValidationError

from narrowcast.settings import DEVELOPMENT_SECRET, Settings


def test_nested_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWCAST_STORAGE__ENDPOINT", "s3.example:9000")
    monkeypatch.setenv("NARROWCAST_JOBS__LEASE_S", "7.5")
    settings = Settings()
    assert (settings.storage.endpoint, settings.jobs.lease_s) == ("s3.example:9000", 7.5)
    assert settings.storage.data_bucket == "narrowcast-data", "the rest keeps its defaults"


def test_a_bad_value_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWCAST_JOBS__MAX_ATTEMPTS", "0")
    with pytest.raises(ValidationError, match="max_attempts"):
        Settings()


@pytest.mark.parametrize(
    ("secret", "url", "problem"),
    [
        (DEVELOPMENT_SECRET, "redis://:pw@h:1/0", "SECRET_KEY"),
        ("minioadmin", "redis://:pw@h:1/0", "SECRET_KEY"),
        ("", "redis://:pw@h:1/0", "SECRET_KEY"),
        ("real", "redis://h:1/0", "REDIS__URL"),
    ],
)
def test_production_refuses_default_secrets(
    monkeypatch: pytest.MonkeyPatch, secret: str, url: str, problem: str
) -> None:
    monkeypatch.setenv("NARROWCAST_ENVIRONMENT", "production")
    monkeypatch.setenv("NARROWCAST_STORAGE__SECRET_KEY", secret)
    monkeypatch.setenv("NARROWCAST_REDIS__URL", url)
    with pytest.raises(ValidationError, match=problem):
        Settings()


def test_production_starts_with_real_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWCAST_ENVIRONMENT", "production")
    monkeypatch.setenv("NARROWCAST_STORAGE__SECRET_KEY", "a-real-secret")
    monkeypatch.setenv("NARROWCAST_REDIS__URL", "redis://:pw@h:1/0")
    settings = Settings()
    assert "a-real-secret" not in repr(settings)
    assert ":pw@" not in repr(settings)
