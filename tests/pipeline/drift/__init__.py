"""Tests of pipeline/drift."""
