"""How pages show families: a colour for each group of scripts, and underlines where colours do not tell them apart.

Nobody can tell twenty colours apart, one man in twelve not even red from green. But letters of most scripts look unlike
anyway, and a reply mixes few of them. So scripts share seven colours by kinship. For readers who see only bluish and
yellowish colours, the families on a page that would look alike then differ in their underlines: the one with the most
tokens has none, so that a text in one script looks plain. A token's family is also told in words where the pointer is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..gate.scripts import NAMES, SIBLINGS

# On light and on dark ground, each with a contrast of at least 4.5 for text.
HUES = {
    "red": ("#b3202c", "#ff8f90"),
    "blue": ("#1458b8", "#86b9ff"),
    "green": ("#17693a", "#86d39a"),
    "purple": ("#8036a8", "#d3a0f2"),
    "teal": ("#00666e", "#6fd0d8"),
    "orange": ("#9a4a00", "#f0ad6a"),
    "magenta": ("#a3177a", "#f59ad4"),
    "grey": ("#62676d", "#9aa1a8"),
}
_BLUISH = ("blue", "purple", "teal", "magenta", "grey")
_HUE_OF = {
    **dict.fromkeys(("cj", *SIBLINGS), "red"),
    "latin": "blue",
    "symbols": "grey",
    "hangul": "magenta",
    **dict.fromkeys(("cyrillic", "greek", "armenian", "georgian"), "purple"),
    **dict.fromkeys(("arabic", "hebrew", "thaana", "ethiopic"), "teal"),
    **dict.fromkeys(("thai", "lao", "khmer", "myanmar", "tibetan"), "orange"),
}
_UNKNOWN = ("purple", "teal", "orange", "magenta")  # families of other rule sets take turns
LINES = ("none", "underline", "underline dashed", "underline dotted", "underline double", "underline wavy")
_SAFE = re.compile("[a-z][a-z0-9-]*")


def looks(families: Sequence[str], counts: Mapping[int, int]) -> list[tuple[str, str]]:
    """The hue and the line of each family, by how many tokens of each there are, by index."""
    hues = [_hue(name, f) for f, name in enumerate(families)]
    lines = [LINES[0]] * len(families)
    for alike in (True, False):
        some = [
            f for f, hue in enumerate(hues) if (hue in _BLUISH) == alike and families[f] != "symbols" and counts.get(f)
        ]
        for place, f in enumerate(sorted(some, key=lambda f: (-counts.get(f, 0), f))):
            lines[f] = LINES[place % len(LINES)]
    return list(zip(hues, lines))


def _hue(name: str, family: int) -> str:
    if name in _HUE_OF:
        return _HUE_OF[name]
    return "green" if name in (*NAMES, "lowres") else _UNKNOWN[family % len(_UNKNOWN)]


def family_css(families: Sequence[str], counts: Mapping[int, int]) -> str:
    """Style rules: variables for the hues, and a class for each family, `f-NAME`, or `f-INDEX` for unusual names."""
    light, dark = (" ".join(f"--{hue}: {pair[i]};" for hue, pair in HUES.items()) for i in range(2))
    rules = [f":root {{ {light} }}", f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"]
    for f, (name, (hue, line)) in enumerate(zip(families, looks(families, counts))):
        rules.append(f".f-{name if _SAFE.fullmatch(name) else f} {{ --family: var(--{hue}); --line: {line}; }}")
    return "\n".join(rules)
