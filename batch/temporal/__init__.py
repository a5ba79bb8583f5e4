"""Runs on Temporal: the engine's protocol inside durable workflows, its calls made by workers on any machines."""
