"""Watches, and never feeds routing: metrics and the access log, from one RequestRecord per request."""
