"""This spool keeps payloads in an object store that speaks S3."""
