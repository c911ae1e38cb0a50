"""Rows: the pool, the catalogue, our own schema, and the SQL that writes."""
