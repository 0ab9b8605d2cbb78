"""The HTTP server: batcher, engine, guard, routes."""
