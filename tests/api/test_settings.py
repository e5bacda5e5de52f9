"""Settings as Chroma's users give, change and read them, and the system that clients are made of."""

from __future__ import annotations

import warnings

import pytest

from chroma_gpu import AdminClient, Client, EphemeralClient, PersistentClient, configure, get_settings
from chroma_gpu.api.client import Client as ClientClass
from chroma_gpu.api.client import SharedSystemClient
from chroma_gpu.api.shared import SharedEngines
from chroma_gpu.config import Settings, System
from chroma_gpu.errors import AuthorizationError, ClosedError


def test_every_field_of_chroma_is_taken(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chromadb.config import Settings as Theirs
    ours = Settings()
    differ = {"anonymized_telemetry", "chroma_server_auth_ignore_paths"}
    for name, field in Theirs.model_fields.items():
        mine = getattr(ours, name)
        # Names of classes in Chroma's source mean nothing here.
        if name not in differ and not name.endswith("_impl"):
            assert mine == getattr(field.default, "value", field.default), name
        setattr(ours, name, mine)
    assert ours.chroma_api_impl == Theirs().chroma_api_impl
    assert ours.anonymized_telemetry is False


def test_an_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="unknown setting nothing"):
        Settings(nothing=1)
    with pytest.raises(ValueError, match="no field 'nothing'"):
        Settings().nothing = 1
    with pytest.raises(AttributeError, match="no field 'nothing'"):
        Settings().nothing  # noqa: B018


def test_settings_can_be_changed_before_a_client_is_made(tmp_path):
    settings = Settings()
    settings.is_persistent = True
    settings.persist_directory = str(tmp_path / "data")
    settings.chroma_server_host = "localhost"
    assert (settings["is_persistent"], settings.require("chroma_server_host")) == (True, "localhost")
    with pytest.raises(ValueError, match="must be a bool"):
        settings.allow_reset = "perhaps"
    with pytest.raises(ValueError, match="Missing required config value 'chroma_client_auth_provider'"):
        settings.require("chroma_client_auth_provider")
    with Client(settings) as client:
        client.create_collection("some")
    assert (tmp_path / "data" / "catalog").exists()
    assert settings != Settings()
    assert Settings(chroma_server_http_port=1) == Settings(chroma_server_http_port=1)


def test_fields_of_chroma_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("CHROMA_SERVER_HTTP_PORT", "8123")
    monkeypatch.setenv("CHROMA_SERVER_SSL_ENABLED", "true")
    monkeypatch.setenv("CHROMA_SERVER_HEADERS", '{"a": "b"}')
    monkeypatch.setenv("CHROMA_HTTP_KEEPALIVE_SECS", "1.5")
    made = Settings()
    assert (made.chroma_server_http_port, made.chroma_server_ssl_enabled) == (8123, True)
    assert (made.chroma_server_headers, made.chroma_http_keepalive_secs) == ({"a": "b"}, 1.5)
    assert Settings(chroma_server_http_port=1).chroma_server_http_port == 1
    monkeypatch.setenv("CHROMA_SERVER_HTTP_PORT", "many")
    with pytest.raises(ValueError, match="CHROMA_SERVER_HTTP_PORT must be a int, got 'many'"):
        Settings()


def test_defaults_are_not_shared():
    Settings().chroma_server_cors_allow_origins.append("x")
    assert Settings().chroma_server_cors_allow_origins == []


def test_a_system_holds_the_engine_open(tmp_path):
    settings = Settings(is_persistent=True, persist_directory=str(tmp_path), allow_reset=True)
    system = System(settings)
    with pytest.raises(ClosedError):
        system.engine  # noqa: B018
    system.start()
    system.start()
    client = ClientClass.from_system(system)
    client.create_collection("some")
    assert client._system._running
    client.close()
    assert not client._system._running
    admin = AdminClient.from_system(system)
    assert [each["name"] for each in admin.list_databases()] == ["default_database"]
    admin.close()
    system.engine.require_open()  # the system still holds it
    system.reset_state()
    with ClientClass.from_system(system) as client:
        assert client.count_collections() == 0
    system.stop()
    system.stop()
    with pytest.raises(ClosedError):
        system.engine.require_open()


def test_a_system_is_reset_only_where_it_is_allowed():
    system = System(Settings())
    system.start()
    with pytest.raises(AuthorizationError):
        system.reset_state()
    system.stop()


def test_clearing_the_cache_forgets_every_engine():
    client = EphemeralClient()
    client.create_collection("some")
    SharedSystemClient.clear_system_cache()
    with pytest.raises(ClosedError):
        client.count_collections()
    with EphemeralClient(Settings(allow_reset=True)) as again:
        assert again.count_collections() == 0


def test_headers_in_the_environment_that_cannot_be_read_are_not_shown(monkeypatch):
    monkeypatch.setenv("CHROMA_SERVER_HEADERS", "Authorization: s3cret")
    with pytest.raises(ValueError, match="CHROMA_SERVER_HEADERS must be a dict") as raised:
        Settings()
    assert "s3cret" not in str(raised.value)


def test_a_client_that_two_threads_close_lets_go_once(tmp_path, monkeypatch):
    """Twice would close the engine of another client."""
    first, second, release = PersistentClient(tmp_path), PersistentClient(tmp_path), SharedEngines.release

    def meanwhile(*held):
        second.close()
        release(*held)

    monkeypatch.setattr(SharedEngines, "release", meanwhile)
    second.close()
    monkeypatch.undo()
    assert first.list_collections() == []
    first.close()


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with PersistentClient("~/data") as client:
        client.create_collection("some")
    assert (tmp_path / "data" / "catalog").is_dir()
    assert not (tmp_path / "~").exists()


def test_settings_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr("chroma_gpu.api.open._Configured.settings", None)
    assert get_settings() == Settings()
    configure(is_persistent=True, persist_directory=str(tmp_path / "data"), allow_reset=True)
    assert get_settings().allow_reset
    with Client() as client:
        client.create_collection("some")
        assert client.reset()
    assert (tmp_path / "data" / "catalog").is_dir()
    with pytest.raises(ValueError, match="unknown setting"):
        configure(colour="red")
    assert get_settings().allow_reset
