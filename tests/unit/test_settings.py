from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celery_laravel import ConfigurationError, install
from celery_laravel.settings import EMBEDDED_STORE, KEYS, forget_settings, read_settings, settings_of, without_password

if TYPE_CHECKING:
    from collections.abc import Callable


def bare(**conf: Any) -> Celery:
    app = Celery("bare", set_as_current=False)
    app.conf.update(**conf)
    return app


def test_an_app_that_sets_nothing_has_the_documented_defaults() -> None:
    settings = read_settings(bare())
    assert (settings.tries, settings.backoff, settings.timeout) == (None, None, None)
    assert settings.prefix == "laravel"
    assert settings.release_counts is True


@pytest.mark.parametrize(
    ("conf", "store"),
    [
        ({}, EMBEDDED_STORE),
        ({"broker_url": "redis://broker/1", "result_backend": "redis://results/2"}, "redis://broker/1"),
        ({"broker_url": "rediss://broker/1"}, "rediss://broker/1"),
        (
            {
                "broker_url": "sentinel://a:1;sentinel://b:2/3",
                "broker_transport_options": {"master_name": "mymaster"},
            },
            "sentinel://a:1;sentinel://b:2/3?master_name=mymaster",
        ),
        ({"broker_url": "sentinel://a:1?master_name=own"}, "sentinel://a:1?master_name=own"),
        ({"broker_url": ["redis://one/0", "redis://two/0"]}, "redis://one/0"),
        ({"broker_url": "amqp://host//", "result_backend": "redis://results/2"}, "redis://results/2"),
        ({"broker_url": "amqp://host//", "result_backend": "db+postgresql://h/d"}, "postgresql://h/d"),
        ({"broker_url": "amqp://host//", "result_backend": "rpc://"}, EMBEDDED_STORE),
        ({"broker_url": "database+sqlite:////x/broker.db?visibility_timeout=9"}, "sqlite:////x/broker.db"),
        (
            {"broker_url": "database+postgresql+psycopg://u@h/d?busy_timeout=9&sslmode=require&prepare_threshold=none"},
            "postgresql+psycopg://u@h/d?sslmode=require",
        ),
        ({"broker_url": "redis://broker/1", "laravel_store": "memory://"}, "memory://"),
    ],
)
def test_the_store_is_where_the_app_already_keeps_things(conf: dict[str, Any], store: str) -> None:
    settings = read_settings(bare(**conf))
    assert settings.store == store
    assert settings.failed_store == store


def test_failed_jobs_may_be_kept_elsewhere() -> None:
    settings = read_settings(bare(laravel_store="memory://", laravel_failed_store="null://"))
    assert (settings.store, settings.failed_store) == ("memory://", "null://")


def test_an_unknown_key_is_an_error_that_names_it_and_what_was_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"'laravel_trys' = 3.*Did you mean 'laravel_tries'"):
        read_settings(bare(laravel_trys=3))


def test_an_unknown_key_like_no_other_lists_the_settings() -> None:
    with pytest.raises(ConfigurationError, match=r"'laravel_zzz' = 1.*laravel_store, laravel_failed_store"):
        read_settings(bare(laravel_zzz=1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("laravel_store", 3),
        ("laravel_store", ""),
        ("laravel_failed_store", 3),
        ("laravel_prefix", ""),
        ("laravel_tries", -1),
        ("laravel_tries", "3"),
        ("laravel_tries", True),
        ("laravel_tries", 2.0),
        ("laravel_backoff", -1),
        ("laravel_backoff", "1"),
        ("laravel_backoff", []),
        ("laravel_backoff", [1, "2"]),
        ("laravel_backoff", float("nan")),
        ("laravel_timeout", 0),
        ("laravel_timeout", float("inf")),
        ("laravel_release_counts", 1),
        ("laravel_connections", ["redis://"]),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_names_key_and_value(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(bare(**{key: value}))
    assert repr(key) in str(caught.value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("key", [key for key in KEYS if key != "laravel_durable_delay"])
def test_none_means_the_default_for_every_key_but_one(key: str) -> None:
    assert read_settings(bare(**{key: None})) == read_settings(bare())


@pytest.mark.parametrize(
    ("conf", "seconds"),
    [
        ({"broker_url": "redis://broker"}, 60),
        ({"broker_url": "redis://broker", "laravel_durable_delay": None}, None),
        ({"broker_url": "redis://broker", "laravel_durable_delay": 0}, 0),
        ({"laravel_store": "postgresql://store"}, 60),
        ({"broker_url": "amqp://broker"}, None),
        ({"broker_url": "amqp://broker", "laravel_durable_delay": 60}, 60),
        ({"broker_url": "amqp://broker", "laravel_store": "sqlite:///celery-laravel.db"}, 60),
    ],
)
def test_long_delays_wait_in_the_store_unless_it_is_a_file_that_nobody_chose(conf: Any, seconds: float | None) -> None:
    """A file in the working directory is another for each machine, and what a producer parks there no worker finds."""
    assert read_settings(bare(**conf)).durable_delay == seconds


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("laravel_after_commit", True),
        ("laravel_watch", True),
    ],
)
def test_a_feature_that_is_not_there_is_refused_rather_than_ignored(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{key}.*does not have"):
        read_settings(bare(**{key: value}))


def test_a_secret_key_does_not_reach_the_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(bare(laravel_secret_key=["hunter2", ""]))
    assert "hunter2" not in str(caught.value)


def test_the_settings_of_django_are_read() -> None:
    class DjangoSettings:
        CELERY_BROKER_URL = "redis://broker/1"
        CELERY_LARAVEL_TRIES = 3
        LARAVEL_TRIES = "of another library"

    app = Celery("django", set_as_current=False, namespace="CELERY")
    app.config_from_object(DjangoSettings, namespace="CELERY")
    settings = read_settings(app)
    assert settings.tries == 3
    assert settings.store == "redis://broker/1"


def test_a_wrong_setting_of_django_is_an_error_too() -> None:
    class DjangoSettings:
        CELERY_LARAVEL_TRYS = 3

    app = Celery("django", set_as_current=False)
    app.config_from_object(DjangoSettings, namespace="CELERY")
    with pytest.raises(ConfigurationError, match="laravel_trys"):
        read_settings(app)


def test_settings_are_read_once_until_they_are_forgotten() -> None:
    app = bare(laravel_tries=1)
    assert settings_of(app).tries == 1
    app.conf.laravel_tries = 2
    assert settings_of(app).tries == 1
    forget_settings(app)
    assert settings_of(app).tries == 2


def test_a_wrong_setting_is_seen_when_the_app_is_finalized(make_app: Callable[..., Celery]) -> None:
    app = install(make_app(laravel_tries="many"))
    with pytest.raises(ConfigurationError, match="laravel_tries"):
        app.finalize()


def test_a_wrong_setting_of_a_finalized_app_is_seen_at_once(make_app: Callable[..., Celery]) -> None:
    app = make_app(laravel_tries="many")
    app.finalize()
    with pytest.raises(ConfigurationError, match="laravel_tries"):
        install(app)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost/1", "redis://localhost/1"),
        ("redis://:secret@localhost/1", "redis://:***@localhost/1"),
        ("postgresql+psycopg://me:secret@h:5432/db", "postgresql+psycopg://me:***@h:5432/db"),
        ("redis://me:me@h/1", "redis://me:***@h/1"),
        ("sqlite:///x.db", "sqlite:///x.db"),
        ("redis://h/0?password=secret", "redis://h/0?password=***"),
    ],
)
def test_a_password_is_hidden(url: str, shown: str) -> None:
    assert without_password(url) == shown
