"""Runs on Temporal: the engine's protocol in durable workflows, with calls made by workers on any machines."""
