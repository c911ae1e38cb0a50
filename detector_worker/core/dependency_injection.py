"""A small container: who needs a service names its type in the constructor, and gets it.

Only `app.py` registers; classes know nothing of the container.
"""

import inspect
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from detector_worker.core.exceptions import ConfigurationError

__all__ = ["ServiceContainer"]

Service = TypeVar("Service")
_Lifetime = Literal["singleton", "transient", "scoped"]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a container and its scopes have in common."""

    registrations: dict[Any, tuple[Callable[..., Any], _Lifetime]] = field(default_factory=dict)
    singletons: dict[Any, Any] = field(default_factory=dict)
    # Re-entrant, since making a service makes those that it needs.
    lock: threading.RLock = field(default_factory=threading.RLock)


class ServiceContainer:
    """Makes services by the type hints of their constructors. Thread-safe.

    A singleton is made once for the container and all of its scopes, a scoped service once per scope, a
    transient for each `resolve`. Services are not closed here: whoever starts one stops it.
    """

    def __init__(self, shared: _Shared | None = None) -> None:
        """Without ``shared``: a container; with it: a scope of the container that shares it."""
        self._shared = shared or _Shared()
        self._scoped: dict[Any, Any] | None = None if shared is None else {}

    def register_singleton(self, service: type[Service], factory: Callable[..., Service] | None = None) -> None:
        """Let ``service`` be made once, by its class or by ``factory``, whose hints are injected likewise."""
        self._register(service, factory, "singleton")

    def register_transient(self, service: type[Service], factory: Callable[..., Service] | None = None) -> None:
        """Let ``service`` be made for each `resolve`."""
        self._register(service, factory, "transient")

    def register_scoped(self, service: type[Service], factory: Callable[..., Service] | None = None) -> None:
        """Let ``service`` be made once in each scope."""
        self._register(service, factory, "scoped")

    def create_scope(self) -> Self:
        """Open a scope, such as one client's connection."""
        return type(self)(self._shared)

    def resolve(self, service: type[Service]) -> Service:
        """Return the service, made now if need be.

        Raises:
            ConfigurationError: It, or something that it needs, is not registered, needs itself, or is asked
                for outside of a scope; the message names the chain that led there.
        """
        with self._shared.lock:
            return cast("Service", self._resolve(service, self._scoped, ()))

    def _register(self, service: Any, factory: Callable[..., Any] | None, lifetime: _Lifetime) -> None:
        with self._shared.lock:
            if service in self._shared.registrations:
                raise _error(f"{_name(service)} is registered twice", (service,), "Register each service once.")
            self._shared.registrations[service] = factory or service, lifetime

    def _resolve(self, service: Any, scoped: dict[Any, Any] | None, chain: tuple[Any, ...]) -> Any:
        chain = (*chain, service)
        if service in chain[:-1]:
            raise _error(f"{_name(service)} needs itself", chain, "Let one of them take a callback instead.")
        registration = self._shared.registrations.get(service)
        if registration is None:
            raise _error(f"No service {_name(service)} is registered", chain, "Register it before it is asked for.")
        factory, lifetime = registration
        if lifetime == "transient":
            return self._make(factory, scoped, chain)
        if lifetime == "singleton":
            # It must not hold on to what belongs to the scope that happened to ask first.
            made, scoped = self._shared.singletons, None
        elif scoped is None:
            raise _error(f"{_name(service)} lives in a scope only", chain, "Resolve it from create_scope().")
        else:
            made = scoped
        if service not in made:
            made[service] = self._make(factory, scoped, chain)
        return made[service]

    def _make(self, factory: Callable[..., Any], scoped: dict[Any, Any] | None, chain: tuple[Any, ...]) -> Any:
        try:
            hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
        except NameError as exc:
            what = f"A type hint of {_name(chain[-1])} cannot be read: {exc}"
            raise _error(what, chain, "Import the type where the service is defined.") from exc
        arguments: dict[str, Any] = {}
        for name, parameter in inspect.signature(factory).parameters.items():
            if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
                continue
            wanted = _without_none(hints.get(name))
            if wanted in self._shared.registrations or parameter.default is parameter.empty:
                if wanted is None:
                    what = f"{name} of {_name(chain[-1])} has no type hint"
                    raise _error(what, chain, "Give it one, or register a factory.")
                arguments[name] = self._resolve(wanted, scoped, chain)
        return factory(**arguments)


def _without_none(hint: Any) -> Any:
    """Return ``X`` of ``X | None``, else the hint itself."""
    if get_origin(hint) not in {Union, types.UnionType}:
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else hint


def _name(service: Any) -> str:
    return getattr(service, "__qualname__", repr(service))


def _error(what: str, chain: tuple[Any, ...], mend: str) -> ConfigurationError:
    return ConfigurationError(what, where=" -> ".join(_name(service) for service in chain), mend=mend)
