"""Builds the Kotlin engine and the Android app with Python's standard library alone; `android_demo/build.py` is its command."""
