"""The commands of `lcg-cpp`, one module each, and what they share."""
