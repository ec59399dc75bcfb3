"""The prompts of the built-in benchmark `cldr`; see ../make_cldr_prompts.py."""
