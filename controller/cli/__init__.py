"""The `domctl` command: kubectl's manners over the same API, without the server's code (see `main`)."""
