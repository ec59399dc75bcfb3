"""Measures the Language Confusion Benchmark's published replies: `python tools/measure_lcb.py CLONE`."""

from real_models.published import main

if __name__ == "__main__":
    main()
