"""Fail if the demo misses a bar: what the README promises is what a fresh install shows."""

import json
import sys
from pathlib import Path

result = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
plain, gated = result["plain"], result["gated"]
bars = {
    "at least 300 prompts": result["prompts"] >= 300,
    "plain CJ at least 5 % of replies": plain["cj_percent"] >= 5,
    "plain Latin at least 5 % of replies": plain["latin_percent"] >= 5,
    "gated CJ at most a fifteenth": gated["cj_percent"] <= plain["cj_percent"] / 15,
    "gated Latin at most a fifteenth": gated["latin_percent"] <= plain["latin_percent"] / 15,
    "switches kept at least 98 % of plain": gated["switches_kept_percent"] >= 0.98 * plain["switches_kept_percent"],
    "exact match not lower": gated["exact_match_percent"] >= plain["exact_match_percent"],
}
for bar, holds in bars.items():
    print("ok  " if holds else "MISS", bar)
print(json.dumps(result, indent=1))
sys.exit(0 if all(bars.values()) else 1)
