"""How pages show families: a colour for each group of scripts, and underlines where colours do not tell them apart.

Nobody can tell twenty colours apart, one man in twelve not even red from green. But letters of most scripts look unlike
anyway, and replies to one prompt mix few of them. So scripts share seven colours by kinship, and among the replies to a
prompt those that someone who sees only bluish and yellowish colours would take for one another differ in underlines
(reply_card.js): the one with the most tokens has none, so that a text in one script looks plain. Chinese and Japanese
families look the same, because every such text mixes several. A token's family is told in words where the pointer is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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
BLUISH = frozenset(("blue", "purple", "teal", "magenta"))  # to those who cannot tell red from green
_HUE_OF = {
    **dict.fromkeys(("cj", *SIBLINGS), "red"),
    "latin": "blue",
    "symbols": "grey",
    "hangul": "magenta",
    **dict.fromkeys(("cyrillic", "greek", "armenian", "georgian"), "purple"),
    **dict.fromkeys(("arabic", "hebrew", "thaana", "ethiopic"), "teal"),
    **dict.fromkeys(("thai", "lao", "khmer", "myanmar", "tibetan"), "orange"),
    **dict.fromkeys(("lowres", "other"), "green"),
}
_UNKNOWN = ("purple", "teal", "orange", "magenta")  # families of other rule sets take turns
_SAFE = re.compile("[a-z][a-z0-9-]*")


def hues(families: Sequence[str]) -> list[str]:
    """The hue of each family, a key of `HUES`; Indic scripts are green."""
    return [
        _HUE_OF.get(name, "green" if name in NAMES else _UNKNOWN[f % len(_UNKNOWN)]) for f, name in enumerate(families)
    ]


def family_css(families: Sequence[str]) -> str:
    """Style rules: variables for the hues, and a class for each family, `f-NAME`, or `f-INDEX` for unusual names."""
    light, dark = (" ".join(f"--{hue}: {pair[i]};" for hue, pair in HUES.items()) for i in range(2))
    rules = [f":root {{ {light} }}", f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"]
    for f, (name, hue) in enumerate(zip(families, hues(families))):
        rules.append(f".f-{name if _SAFE.fullmatch(name) else f} {{ --family: var(--{hue}); }}")
    return "\n".join(rules)
