"""Spillway: a Layer-7 gateway for model inference."""
