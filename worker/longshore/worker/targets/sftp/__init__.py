"""Deliveries over SFTP."""
