"""Any torch device with streams and events."""
