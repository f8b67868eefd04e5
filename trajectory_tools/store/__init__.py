"""The folder format: what a recorder writes and an analysis reads. Never imports torch."""
