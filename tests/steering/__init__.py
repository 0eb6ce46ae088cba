"""Experts that tell prompts apart, and models whose routers are steered."""
