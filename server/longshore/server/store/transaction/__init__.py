"""The unit of work: what one transaction has loaded, decided and will write."""
