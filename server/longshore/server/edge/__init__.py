"""The gRPC services: thin, they translate and delegate."""
