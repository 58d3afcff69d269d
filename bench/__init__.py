"""Benchmarks: figures as a table and in bench/out/<name>.json. Medians of several runs; nothing here is a test."""
