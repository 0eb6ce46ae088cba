"""Conformance laws that every plug-in must obey, for this project's own and for third parties' tests."""
