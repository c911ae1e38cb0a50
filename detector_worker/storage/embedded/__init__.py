"""A PostgreSQL and a Valkey of the worker's own."""
