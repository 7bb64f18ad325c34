"""The online service: answers requests for recommendations over HTTP."""
