"""HTTP/1.1: parser, canonical paths, routes, one request's life, pooled upstream connections."""
