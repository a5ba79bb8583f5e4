"""The application: what each command does, step by step."""
