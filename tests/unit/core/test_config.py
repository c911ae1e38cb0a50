import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector_worker.core.config import (
    Configuration,
    EnvironmentConfigProvider,
    JSONConfigProvider,
    YAMLConfigProvider,
    user_cache_folder,
)
from detector_worker.core.exceptions import ConfigurationError

PROJECT = Path(__file__).parents[3]


def from_environment(**variables: str) -> Configuration:
    environ = {f"DETECTOR_WORKER_{name}": value for name, value in variables.items()}
    return Configuration.load_from(EnvironmentConfigProvider(environ, env_file=None))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("SERVER__PORT", "abc", ("server.port", "'abc'", "integer")),
        ("SERVER__PORT", "70000", ("server.port", "'70000'", "65535")),
        ("PORT", "-1", ("server.port", "'-1'", "greater than or equal to 0")),
        ("ENV", "production", ("environment", "'production'", "'prod'")),
        ("SERVER__HEARTBEAT_INTERVAL", "0", ("server.heartbeat_interval", "'0'", "0.1")),
        ("STREAMS__TARGET_FPS", "inf", ("streams.target_fps", "'inf'", "240")),
        ("STREAMS__TRANSPORT", "smoke", ("streams.transport", "'smoke'", "'tcp' or 'udp'")),
        ("STREAMS__ALLOWED_NETWORKS", "10.0.0.1/8", ("streams.allowed_networks", "10.0.0.1/8", "network")),
        ("STREAMS__ALLOWED_NETWORKS", "[1,", ("streams.allowed_networks", "'[1,'", "line 1")),
        ("STREAMS__TARGTFPS", "1", ("streams.targtfps", "no such setting", "streams.target_fps")),
        ("SERVER_PORT", "1", ("server_port", "no such setting", "server.port")),
        ("PROT", "1", ("prot", "no such setting", "server.port")),
        ("STREEMS__TARGET_FPS", "1", ("streems", "no such setting", "streams")),
        ("ENGINE__GROUPS", "0", ("engine.groups", "'0'", "1")),
        ("ACCESS__ORIGINS", "desk.example", ("access.origins", "desk.example", "https?://")),
        ("LOGGING__LEVEL", "loud", ("logging.level", "'LOUD'", "'WARNING'")),
        ("SPOOL__DRAIN_SECONDS", "60", ("spool.drain_seconds", "'60'", "4")),
        ("SERVER__HOST", "0.0.0.0", ("server.host", "'0.0.0.0'", "access.tokens", "allow_anonymous_network")),  # noqa: S104 - a host to be checked
        ("REDIS__URL", "http://a:Kanarienvogel@b", ("redis.url", "***", "rediss://")),
        ("DATABASE", "postgres://a:Kanarienvogel@b", ("database", "must be an object")),
        ("DATABASE__PASWORD", "Kanarienvogel", ("database.pasword", "no such setting", "database.password")),
        ("ACCESS__TOKENS", '["Kanarienvogel", ""]', ("access.tokens", "***")),
    ],
)
def test_a_bad_value_is_told_with_key_source_and_remedy_but_never_a_secret(
    variable: str, value: str, told: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_environment(**{variable: value})

    message = str(caught.value)
    assert [words for words in told if words not in message] == []
    assert f"DETECTOR_WORKER_{variable}" in message or variable == "SERVER__HOST"
    assert "Kanarienvogel" not in message
    assert caught.value.__cause__ is None


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "worker.json"
    file.write_text(json.dumps({"server": {"port": "x", "host": 5}, "engine": [], "extra": 1}))

    with pytest.raises(ConfigurationError) as caught:
        Configuration.load_from_file(file)

    for words in ("4 settings", "server.port", "server.host", "engine", "extra", str(file)):
        assert words in str(caught.value)


def test_later_sources_win_and_the_short_names_are_the_weakest_variables(tmp_path: Path) -> None:
    file, env_file = tmp_path / "worker.yaml", tmp_path / "env"
    file.write_text(yaml.safe_dump({"server": {"port": 1, "host": "localhost"}, "streams": {"target_fps": 1}}))
    env_file.write_text("DETECTOR_WORKER_PORT=2\nDETECTOR_WORKER_STREAMS__TARGET_FPS=2\nDETECTOR_WORKER_ENV=staging\n")
    environ = {"DETECTOR_WORKER_SERVER__PORT": "4", "DETECTOR_WORKER_PORT": "3", "DETECTOR_WORKER_DATA_DIR": ""}
    environ["DETECTOR_WORKER_SERVICES__EMBEDDED"] = "true"

    configuration = Configuration.load_from(YAMLConfigProvider(file), EnvironmentConfigProvider(environ, env_file))

    assert (configuration.port, configuration.streams.target_fps) == (4, 2)
    assert (configuration.server.host, configuration.environment) == ("localhost", "staging")
    assert configuration.server.data_dir == Path("data")


def test_load_reads_the_folders_file_the_environment_and_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"server": {"port": 1}, "logging": {"level": "debug"}}')
    (tmp_path / ".env").write_text("DETECTOR_WORKER_DATABASE__PASSWORD=pa$$word${HOME}\n")
    monkeypatch.setenv("DETECTOR_WORKER_SERVER__PORT", "2")
    monkeypatch.setenv("DETECTOR_WORKER_ASSETS", "not a setting")

    configuration = Configuration.load(overrides={"server": {"port": 3, "data_dir": "elsewhere"}})

    assert (configuration.port, configuration.server.data_dir) == (3, Path("elsewhere"))
    assert configuration.logging.level == "DEBUG"
    assert configuration.database.password is not None
    assert configuration.database.password.get_secret_value() == "pa$$word${HOME}"
    assert Configuration.load_from_env().port == 2


def test_lists_come_as_json_or_between_commas() -> None:
    for text in ("10.0.0.0/8, fd00::/8", '["10.0.0.0/8", "fd00::/8"]'):
        networks = from_environment(STREAMS__ALLOWED_NETWORKS=text).streams.allowed_networks
        assert [str(network) for network in networks] == ["10.0.0.0/8", "fd00::/8"]
    assert from_environment(STREAMS__ALLOWED_NETWORKS="").streams.allowed_networks == ()
    assert from_environment(STREAMS__TRANSPORT="null").streams.transport is None


@pytest.mark.parametrize(("environment", "port"), [("dev", 8001), ("staging", 8001), ("prod", 8000)])
def test_each_environment_has_its_port(environment: str, port: int) -> None:
    assert from_environment(ENV=environment, SERVICES__EMBEDDED="true").port == port
    assert from_environment(ENV=environment, SERVICES__EMBEDDED="true", PORT="9").port == 9


def test_beyond_dev_the_worker_starts_its_own_servers_only_where_told() -> None:
    with pytest.raises(ConfigurationError, match=r"database\.host = null.*redis\.url = null"):
        from_environment(ENV="prod")
    with pytest.raises(ConfigurationError, match="needed"):
        from_environment(SERVICES__EMBEDDED="false", DATABASE__HOST="db")

    assert from_environment(ENV="prod", SERVICES__EMBEDDED="true").embedded_allowed
    assert from_environment().embedded_allowed
    assert not from_environment(ENV="prod", DATABASE__HOST="db", REDIS__URL="redis://c").embedded_allowed


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_this_machine_needs_no_token(host: str) -> None:
    assert from_environment(SERVER__HOST=host).warnings() == ()


def test_listening_beyond_this_machine_without_tokens_is_possible_but_warned_of() -> None:
    open_to_all = from_environment(SERVER__HOST="0.0.0.0", ACCESS__ALLOW_ANONYMOUS_NETWORK="true")  # noqa: S104 - a host to be checked
    guarded = from_environment(SERVER__HOST="0.0.0.0", ACCESS__TOKENS="Kanarienvogel,a-token-that-is-long-enough")  # noqa: S104 - a host to be checked

    assert "Anybody" in open_to_all.warnings()[0]
    assert "guessed" in guarded.warnings()[0]
    assert "Kanarienvogel" not in f"{guarded!r} {guarded.warnings()} {guarded.model_dump_json()}"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.json", b'{"server": {"password": "Kanarienvogel" "x"}}', "line 1"),
        ("c.json", b"[1]", "object"),
        ("c.json", b"\xff\xfe\x00", "UTF-8"),
        ("c.yaml", b"server:\n  password: 'Kanarienvogel\n", "line"),
        ("c.yml", b"- 1", "object"),
        ("absent.json", None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_without_its_content(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigurationError, match=told) as caught:
        Configuration.load_from_file(file)

    assert str(file) in str(caught.value)
    assert "Kanarienvogel" not in str(caught.value)


def test_the_example_holds_every_setting_and_every_default() -> None:
    content: Mapping[str, Any] = JSONConfigProvider(PROJECT / "config.example.json").load()

    assert content == Configuration().model_dump(mode="json")
    assert Configuration.load_from_file(PROJECT / "config.example.json") == Configuration()


def test_an_empty_yaml_file_means_defaults(temp_config_file: Path) -> None:
    empty = temp_config_file.with_suffix(".yaml")
    empty.write_text("# nothing yet\n")

    assert Configuration.load_from_file(empty) == Configuration()
    assert Configuration.load_from_file(temp_config_file).server.port == 0


def test_a_configuration_crosses_the_border_of_a_process_and_cannot_be_changed() -> None:
    configuration = from_environment(DATABASE__HOST="db", DATABASE__PASSWORD="x")  # noqa: S106 - a canary

    assert pickle.loads(pickle.dumps(configuration)) == configuration  # noqa: S301 - our own bytes
    with pytest.raises(ValueError, match="frozen"):
        configuration.server.port = 5  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/var/cache/me"}, Path("/var/cache/me")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache"),
        ({"XDG_CACHE_HOME": ""}, Path.home() / ".cache"),
        ({}, Path.home() / ".cache"),
    ],
)
def test_caches_are_where_the_account_keeps_them(environ: dict[str, str], folder: Path) -> None:
    assert user_cache_folder(environ) == folder
