import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from detector_worker.core.dependency_injection import ServiceContainer
from detector_worker.core.exceptions import ConfigurationError


class Settings:
    def __init__(self) -> None:
        self.value = 7


class Store:
    def __init__(self, settings: Settings, *, retries: int = 3) -> None:
        self.settings, self.retries = settings, retries


class Page:
    def __init__(self, store: Store, cache: "Cache | None" = None) -> None:
        self.store, self.cache = store, cache


class Cache:
    pass


class Hen:
    def __init__(self, egg: "Egg") -> None:
        self.egg = egg


class Egg:
    def __init__(self, hen: Hen) -> None:
        self.hen = hen


class Unhinted:
    def __init__(self, what) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - that is the point
        self.what = what


def test_constructors_get_what_their_hints_name() -> None:
    container = ServiceContainer()
    container.register_singleton(Settings)
    container.register_singleton(Store)
    container.register_transient(Page)

    page = container.resolve(Page)

    assert page.store.settings.value == 7
    assert (page.store.retries, page.cache) == (3, None)
    assert container.resolve(Page) is not page
    assert container.resolve(Page).store is page.store


def test_an_optional_service_is_given_where_it_is_registered() -> None:
    container = ServiceContainer()
    for service in (Settings, Store, Cache, Page):
        container.register_singleton(service)

    assert isinstance(container.resolve(Page).cache, Cache)


def test_factories_are_injected_likewise() -> None:
    def new_store(settings: Settings) -> Store:
        return Store(settings, retries=settings.value)

    container = ServiceContainer()
    container.register_singleton(Settings)
    container.register_singleton(Store, new_store)

    assert container.resolve(Store).retries == 7


def test_a_missing_service_names_the_chain_that_asked_for_it() -> None:
    container = ServiceContainer()
    container.register_singleton(Page)
    container.register_singleton(Store)

    with pytest.raises(ConfigurationError, match=r"No service Settings .*Page -> Store -> Settings"):
        container.resolve(Page)


def test_services_that_need_each_other_are_told_apart() -> None:
    container = ServiceContainer()
    container.register_singleton(Hen)
    container.register_transient(Egg)

    with pytest.raises(ConfigurationError, match="Hen -> Egg -> Hen"):
        container.resolve(Hen)


def test_a_parameter_without_hint_is_told() -> None:
    container = ServiceContainer()
    container.register_singleton(Unhinted)

    with pytest.raises(ConfigurationError, match="what of Unhinted has no type hint"):
        container.resolve(Unhinted)


def test_registering_twice_is_an_error() -> None:
    container = ServiceContainer()
    container.register_singleton(Settings)

    with pytest.raises(ConfigurationError, match="twice"):
        container.register_transient(Settings)


def test_each_scope_has_its_own_and_shares_the_singletons() -> None:
    container = ServiceContainer()
    container.register_singleton(Settings)
    container.register_scoped(Store)
    container.register_transient(Page)
    one, two = container.create_scope(), container.create_scope()

    assert one.resolve(Store) is one.resolve(Page).store
    assert one.resolve(Store) is not two.resolve(Store)
    assert one.resolve(Store).settings is two.resolve(Store).settings is container.resolve(Settings)
    with pytest.raises(ConfigurationError, match="in a scope only"):
        container.resolve(Store)


def test_a_singleton_cannot_hold_on_to_one_scope() -> None:
    container = ServiceContainer()
    container.register_singleton(Settings)
    container.register_scoped(Store)
    container.register_singleton(Page)

    with pytest.raises(ConfigurationError, match="Page -> Store"):
        container.create_scope().resolve(Page)


def test_many_threads_get_one_singleton() -> None:
    made: list[Settings] = []
    together = threading.Barrier(8)

    def new_settings() -> Settings:
        made.append(Settings())
        return made[-1]

    def resolve(_: int) -> Settings:
        together.wait()
        return container.resolve(Settings)

    container = ServiceContainer()
    container.register_singleton(Settings, new_settings)
    with ThreadPoolExecutor(8) as pool:
        assert {id(one) for one in pool.map(resolve, range(8))} == {id(made[0])}
    assert len(made) == 1
