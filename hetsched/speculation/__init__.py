"""Speculation: how many tokens to draft before the next step, decided from what drafts and steps have come to."""
