"""The worker's configuration: read once, checked as a whole, handed on value by value.

Later sources win: defaults, the file, ``.env``, the environment, the command line. Whatever is wrong is
told in one message, with each setting's name, its value (never a secret's), its source and its remedy.
This is the only module that looks at ``os.environ``.
"""

import difflib
import ipaddress
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, ValidationError

from detector_worker.core import settings
from detector_worker.core.config_problems import describe_problems
from detector_worker.core.exceptions import ConfigurationError

__all__ = [
    "Configuration",
    "ConfigurationProvider",
    "EnvironmentConfigProvider",
    "JSONConfigProvider",
    "YAMLConfigProvider",
    "user_cache_folder",
]

_PREFIX: Final = "DETECTOR_WORKER_"
_SHORT_NAMES: Final = {"ENV": ("environment",), "PORT": ("server", "port"), "DATA_DIR": ("server", "data_dir")}
_DEFAULT_FILES: Final = ("config.json", "config.yaml", "config.yml")


class ConfigurationProvider(ABC):
    """One source of settings."""

    @abstractmethod
    def load(self) -> Mapping[str, Any]:
        """Return what it says, nested as the sections are; empty where it says nothing.

        Raises:
            ConfigurationError: It cannot be read.
        """

    @abstractmethod
    def source_of(self, path: Sequence[str]) -> str:
        """Name the place where a setting of this source is to be corrected."""


class _FileProvider(ConfigurationProvider):
    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Mapping[str, Any]:
        try:
            content = self._parse(self._path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise self._error(f"The file cannot be read: {exc.strerror}", "Check --config and its permissions") from exc
        except UnicodeDecodeError:
            raise self._error("The configuration is no UTF-8 text", "Save it as UTF-8") from None
        if not isinstance(content, Mapping):
            raise self._error("The configuration is no object", "Begin with the sections, as config.example.json does")
        return content

    def source_of(self, path: Sequence[str]) -> str:
        return str(self._path)

    @abstractmethod
    def _parse(self, text: str) -> Any: ...

    def _error(self, what: str, mend: str) -> ConfigurationError:
        return ConfigurationError(what, where=str(self._path), mend=f"{mend}.")


class JSONConfigProvider(_FileProvider):
    """A JSON file."""

    def _parse(self, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as exc:
            where = f"line {exc.lineno}, column {exc.colno}"
            raise self._error(f"The configuration is no JSON ({exc.msg}, {where})", "Correct that place") from None


class YAMLConfigProvider(_FileProvider):
    """A YAML file."""

    def _parse(self, text: str) -> Any:
        try:
            return yaml.safe_load(text) or {}
        except yaml.YAMLError as exc:
            mark = exc.problem_mark if isinstance(exc, yaml.MarkedYAMLError) else None
            where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
            raise self._error(f"The configuration is no YAML{where}", "Correct that place") from None


class EnvironmentConfigProvider(ConfigurationProvider):
    """Variables ``DETECTOR_WORKER_<SECTION>__<KEY>`` of the environment, and beneath them those of a ``.env`` file.

    ``DETECTOR_WORKER_ENV``, ``_PORT`` and ``_DATA_DIR`` are short names. Empty means: not set; ``null``: none.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, env_file: Path | None = Path(".env")) -> None:
        self._environ = os.environ if environ is None else environ
        self._env_file = env_file
        self._names: dict[tuple[str, ...], str] = {}

    def load(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for name, value in sorted(self.variables().items(), key=lambda item: "__" in item[0]):
            path = _setting_path(name)
            if path and value:
                *section, key = path
                place = found.setdefault(section[0], {}) if section else found
                place[key] = None if value == "null" else value
                self._names[path] = name
        return found

    def variables(self) -> dict[str, str]:
        """Return every variable, ours or not."""
        return {**self._from_file(), **self._environ}

    def source_of(self, path: Sequence[str]) -> str:
        wanted = tuple(path)
        return next((name for known, name in self._names.items() if known[: len(wanted)] == wanted), "the environment")

    def _from_file(self) -> dict[str, str]:
        if self._env_file is None:
            return {}
        try:
            # Passwords hold $: nothing is substituted.
            values = dotenv_values(self._env_file, interpolate=False)
        except (OSError, UnicodeDecodeError) as exc:
            what = f"The file cannot be read: {type(exc).__name__}"
            raise ConfigurationError(what, where=str(self._env_file), mend="Mend or remove it.") from exc
        return {name: value for name, value in values.items() if value is not None}


class _CommandLineProvider(ConfigurationProvider):
    def __init__(self, values: Mapping[str, Mapping[str, Any]]) -> None:
        self._values = values

    def load(self) -> Mapping[str, Any]:
        return self._values

    def source_of(self, path: Sequence[str]) -> str:
        return "the command line"


class Configuration(BaseModel):
    """All settings, one attribute a section. Immutable; crosses the border of a process."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    environment: Literal["dev", "staging", "prod"] = "dev"
    server: settings.ServerSettings = settings.ServerSettings()
    streams: settings.StreamsSettings = settings.StreamsSettings()
    models: settings.ModelsSettings = settings.ModelsSettings()
    pipelines: settings.PipelinesSettings = settings.PipelinesSettings()
    database: settings.DatabaseSettings = settings.DatabaseSettings()
    redis: settings.RedisSettings = settings.RedisSettings()
    services: settings.ServicesSettings = settings.ServicesSettings()
    engine: settings.EngineSettings = settings.EngineSettings()
    spool: settings.SpoolSettings = settings.SpoolSettings()
    sessions: settings.SessionsSettings = settings.SessionsSettings()
    access: settings.AccessSettings = settings.AccessSettings()
    logging: settings.LoggingSettings = settings.LoggingSettings()

    @classmethod
    def load(cls, path: Path | None = None, *, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Self:
        """Read every source and check the whole; without ``path`` the current folder's config.json or .yaml, if any.

        Raises:
            ConfigurationError: One message with everything that is wrong.
        """
        file = path or next((Path(name) for name in _DEFAULT_FILES if Path(name).is_file()), None)
        providers: list[ConfigurationProvider] = [_file_provider(file)] if file else []
        return cls.load_from(*providers, EnvironmentConfigProvider(), _CommandLineProvider(overrides or {}))

    @classmethod
    def load_from_file(cls, path: Path | str) -> Self:
        """Read one file, JSON or YAML by its suffix, over the defaults."""
        return cls.load_from(_file_provider(Path(path)))

    @classmethod
    def load_from_env(cls) -> Self:
        """Read ``.env`` and the environment over the defaults."""
        return cls.load_from(EnvironmentConfigProvider())

    @classmethod
    def load_from(cls, *providers: ConfigurationProvider) -> Self:
        """Read these sources, the last one wins, and check the whole."""
        layers = [(provider, provider.load()) for provider in providers]
        try:
            configuration = cls.model_validate(_merged([values for _, values in layers]))
        except ValidationError as exc:
            raise _error(describe_problems(cls, exc.errors(include_url=False), layers)) from None
        configuration.validate_config()
        return configuration

    def validate_config(self) -> None:
        """Raise one ConfigurationError with all settings that contradict each other."""
        problems = list(self._contradictions())
        if problems:
            raise _error(problems)

    @property
    def port(self) -> int:
        """Where to listen."""
        if self.server.port is not None:
            return self.server.port
        return 8000 if self.environment == "prod" else 8001

    @property
    def embedded_allowed(self) -> bool:
        """Whether servers of the worker's own may be started where an address is missing."""
        return self.environment == "dev" if self.services.embedded is None else self.services.embedded

    def warnings(self) -> tuple[str, ...]:
        """Return what works but deserves a line in the log at start."""
        found = []
        if not self.access.tokens and not _is_loopback(self.server.host):
            found.append(f"Anybody who reaches {self.server.host} controls this worker: access.tokens is empty.")
        if any(len(token.get_secret_value()) < 16 for token in self.access.tokens):
            found.append("access.tokens holds a token of fewer than 16 characters, which can be guessed.")
        return tuple(found)

    def _contradictions(self) -> Iterator[str]:
        host = self.server.host
        if not (_is_loopback(host) or self.access.tokens or self.access.allow_anonymous_network):
            yield (
                f"server.host = {host!r}: without tokens only this machine may connect; set access.tokens, "
                "or access.allow_anonymous_network = true, or server.host = '127.0.0.1'"
            )
        for key, address in (("database.host", self.database.host), ("redis.url", self.redis.url)):
            if address is None and not self.embedded_allowed:
                yield (
                    f"{key} = null: with environment {self.environment!r} and services.embedded = "
                    f"{json.dumps(self.services.embedded)} an address is needed, or services.embedded = true"
                )


def user_cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Return where this account's programs keep what they can make again: ``$XDG_CACHE_HOME``, else ``~/.cache``."""
    named = Path((os.environ if environ is None else environ).get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"


def _file_provider(path: Path) -> ConfigurationProvider:
    return YAMLConfigProvider(path) if path.suffix.lower() in {".yaml", ".yml"} else JSONConfigProvider(path)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _setting_path(variable: str) -> tuple[str, ...] | None:
    """Return the path of the setting that a variable means; None: it is none of ours."""
    if not variable.startswith(_PREFIX):
        return None
    name = variable.removeprefix(_PREFIX)
    if name in _SHORT_NAMES:
        return _SHORT_NAMES[name]
    section, separator, key = name.lower().partition("__")
    if separator:
        return section, key
    # Other programs may share the prefix; but one underscore for two, or a misspelt short name, must not pass silently.
    ours = section.split("_")[0] in Configuration.model_fields or difflib.get_close_matches(name, _SHORT_NAMES)
    return (section,) if ours else None


def _merged(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for layer in layers:
        for section, values in layer.items():
            before = whole.get(section)
            both = isinstance(before, Mapping) and isinstance(values, Mapping)
            whole[section] = {**before, **values} if both else values  # type: ignore[dict-item] # mypy: "both"
    return whole


def _error(problems: Sequence[str]) -> ConfigurationError:
    count = "One setting" if len(problems) == 1 else f"{len(problems)} settings"
    return ConfigurationError(
        f"{count} cannot be used: {'; '.join(problems)}",
        where="configuration",
        mend="Correct it and start again; config.example.json holds every setting.",
    )
