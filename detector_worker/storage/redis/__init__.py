"""Pictures and messages: the pool, addresses, and what the server may lose by itself."""
