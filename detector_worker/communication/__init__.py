"""Clients: WebSocket, HTTP, access."""
