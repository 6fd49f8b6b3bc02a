"""Tests against a real Envoy, and what they are written in."""
