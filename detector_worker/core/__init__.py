"""Configuration, container, state holders, exceptions, entities, wire messages, address guard, clock."""
