"""Staged files into one warehouse each: DDL, bulk load, check."""
