"""Languages by name, from Unicode CLDR through Babel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING

from ..errors import GateError

if TYPE_CHECKING:
    from babel import Locale

Variety = tuple[str, str, str]  # of FLORES+: ISO 639-3, ISO 15924, glottocode

# English names of languages that CLDR does not name, by ISO 639-3.
_UNNAMED = {
    "acm": "Mesopotamian Arabic",
    "acq": "Ta’izzi-Adeni Arabic",
    "apc": "Levantine Arabic",
    "azb": "South Azerbaijani",
    "cjk": "Chokwe",
    "fuv": "Nigerian Fulfulde",
    "hne": "Chhattisgarhi",
    "kbp": "Kabiyè",
    "ktu": "Kituba",
    "lld": "Ladin",
    "pbt": "Southern Pashto",
    "quy": "Ayacucho Quechua",
    "taq": "Tamasheq",
}
# Varieties that share language and script with another one, by glottocode.
_VARIETIES = {
    "akua1239": "Akuapem Twi",
    "aran1260": "Aranese",
    "asan1239": "Asante Twi",
    "nort3139": "North Levantine Arabic",
    "sout3123": "South Levantine Arabic",
    "vale1252": "Valencian",
}


def locale(code: str) -> Locale:
    """CLDR's data of a language."""
    try:
        from babel import Locale  # noqa: PLC0415 (optional)
    except ImportError as error:
        raise GateError('the names of languages need `babel`: pip install "lcg-cpp[data]"') from error
    return Locale.parse(code)


def cldr_version() -> str:
    """Where names come from: "CLDR 47 (Babel 2.18.0)"; Babel before 2.18 does not say which CLDR it holds."""
    locale("en")
    import babel  # noqa: PLC0415 (`locale` has found it)
    from babel.core import get_global  # noqa: PLC0415

    version, package = get_global("cldr").get("version"), f"Babel {babel.__version__}"
    return f"CLDR {version} ({package})" if version else package


def flores_names(varieties: Collection[Variety]) -> dict[Variety, str]:
    """English names in the order of their codes, told apart by script where a language comes in several."""
    english = locale("en")
    from babel.core import get_global  # noqa: PLC0415 (`locale` has found it)

    aliases = get_global("language_aliases")
    scripts: dict[str, set[str]] = defaultdict(set)
    for iso, script, _ in varieties:
        scripts[iso].add(script)
    names = {}
    for iso, script, glottocode in sorted(varieties):
        known = english.languages.get(aliases.get(iso, iso))
        name = _VARIETIES.get(glottocode) or _UNNAMED.get(iso) or known or iso
        if len(scripts[iso]) > 1:
            of_script = english.scripts.get(script, script)
            name = f"{of_script} {name}" if script in {"Hans", "Hant"} else f"{name} ({of_script} script)"
        names[iso, script, glottocode] = name
    return names
