"""Caches that save queries. The store gives the same answers without them."""
