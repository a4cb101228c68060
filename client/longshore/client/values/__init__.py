"""Plain values for the contract's messages: specs, filters, arguments, enumerations."""
