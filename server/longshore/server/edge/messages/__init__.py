"""Messages of the contract: read, checked, and made of the engine's values."""
