"""Settings: nested, validated at the start, no default secrets in production."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from narrowcast.settings import DEVELOPMENT_SECRET, RedisSettings, Settings, settings_or_exit


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
        ("real", "redis://h:1/0", "REDIS__PASSWORD"),
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


def test_secrets_come_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "NARROWCAST_STORAGE__SECRET_KEY").write_text("from-a-file\n")
    (tmp_path / "NARROWCAST_REDIS__PASSWORD").write_text("p@ss/word")
    (tmp_path / "unrelated").write_text("x")
    monkeypatch.setenv("NARROWCAST_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("NARROWCAST_ENVIRONMENT", "production")
    monkeypatch.setenv("NARROWCAST_STORAGE__ENDPOINT", "s3.example:9000")
    monkeypatch.setenv("NARROWCAST_REDIS__URL", "redis://redis:6379/0")
    settings = Settings()
    assert settings.storage.secret_key.get_secret_value() == "from-a-file"
    assert settings.storage.endpoint == "s3.example:9000", "the rest of a section comes from elsewhere"
    assert settings.redis.dsn == "redis://:p%40ss%2Fword@redis:6379/0"
    assert "p@ss" not in repr(settings)


def test_the_environment_wins_over_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "NARROWCAST_STORAGE__SECRET_KEY").write_text("from-a-file")
    monkeypatch.setenv("NARROWCAST_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("NARROWCAST_STORAGE__SECRET_KEY", "from-the-environment")
    assert Settings().storage.secret_key.get_secret_value() == "from-the-environment"


@pytest.mark.parametrize(
    ("url", "dsn"),
    [
        ("redis://h:1/0", "redis://:pw@h:1/0"),
        ("redis://user@h:1/0", "redis://user:pw@h:1/0"),
        ("rediss://:own@h:1/2", "rediss://:own@h:1/2"),
    ],
)
def test_the_password_joins_the_url(url: str, dsn: str) -> None:
    assert RedisSettings.model_validate({"url": url, "password": "pw"}).dsn == dsn


def test_a_process_with_wrong_settings_says_which_and_no_value(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NARROWCAST_STORAGE__SECRET_KEY", "a-real-secret")
    monkeypatch.setenv("NARROWCAST_STORAGE__SECURE", "a-secret-in-the-wrong-place")
    with pytest.raises(SystemExit) as caught:
        settings_or_exit(Settings, "gateway")
    assert caught.value.code == 2
    said = "".join(capfd.readouterr())
    assert "secure" in said
    assert "secret-in" not in said
    with pytest.raises(ValidationError) as error:
        Settings()
    assert "secret-in" not in str(error.value)


def test_what_does_not_matter_needs_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARROWCAST_ENVIRONMENT", "production")
    assert settings_or_exit(Settings, "gateway", environment="development").environment == "development"
