"""Endpoint and credentials from environment, files and contexts."""
