"""The worker's own tables in PostgreSQL: numbered files, each applied once, in order, never changed afterwards."""
