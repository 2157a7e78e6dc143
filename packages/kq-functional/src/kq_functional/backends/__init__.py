"""Backends: objects that compute the ops into memory given by the caller."""
