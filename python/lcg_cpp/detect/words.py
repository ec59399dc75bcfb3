"""Words of every script: slips to be spliced into replies, and names and sayings that may rightly stand there."""

from __future__ import annotations

from functools import lru_cache

from ..gate.families import text_families
from ..gate.rule_set import FamilySet

BRACKETS, QUOTATION, CODE, BLOCK = SPLICED = ("brackets", "quotation", "code", "code block")

# Of each script: common words; names; sayings. Chinese and Japanese words hold characters that only some of them write.
_TEXTS = """
because, together, información, mañana, toujours, beaucoup, wirklich, zusammen, nhưng; \
Google, Maria Rossi, NATO, Wikipedia, Toyota; To be or not to be, Carpe diem, Hello world
потому, вместе, информация; Москва, Анна Иванова; добро пожаловать
επειδή, μαζί, κόσμος; Αθήνα, Μαρία; γνῶθι σεαυτόν
բայց, միասին, աշխարհ; Երևան; բարի գալուստ
მაგრამ, ერთად, მსოფლიო; თბილისი; გამარჯობა
لكن, معلومات, العالم; القاهرة, محمد; السلام عليكم
אבל, מידע, עולם; ירושלים; ברוכים הבאים
ދިވެހި, ދުނިޔެ; މާލެ; މަރުހަބާ
लेकिन, जानकारी, दुनिया; दिल्ली; सत्यमेव जयते
কিন্তু, তথ্য, পৃথিবী; ঢাকা; আমার সোনার বাংলা
ਪਰ, ਜਾਣਕਾਰੀ, ਦੁਨੀਆ; ਅੰਮ੍ਰਿਤਸਰ; ਸਤਿ ਸ੍ਰੀ ਅਕਾਲ
પરંતુ, માહિતી, દુનિયા; અમદાવાદ; જય જય ગરવી ગુજરાત
କିନ୍ତୁ, ସୂଚନା, ପୃଥିବୀ; ଭୁବନେଶ୍ୱର; ନମସ୍କାର
ஆனால், தகவல், உலகம்; சென்னை; யாதும் ஊரே யாவரும் கேளிர்
కానీ, సమాచారం, ప్రపంచం; హైదరాబాద్; నమస్కారం
ಆದರೆ, ಮಾಹಿತಿ, ಪ್ರಪಂಚ; ಬೆಂಗಳೂರು; ನಮಸ್ಕಾರ
പക്ഷേ, വിവരങ്ങൾ, ലോകം; കൊച്ചി; നമസ്കാരം
නමුත්, තොරතුරු, ලෝකය; කොළඹ; ආයුබෝවන්
แต่, ข้อมูล, โลก; กรุงเทพ; สวัสดีครับ
ແຕ່, ຂໍ້ມູນ, ໂລກ; ວຽງຈັນ; ສະບາຍດີ
ប៉ុន្តែ, ព័ត៌មាន, ពិភពលោក; ភ្នំពេញ; សួស្តី
ဒါပေမယ့်, သတင်း, ကမ္ဘာ; ရန်ကုန်; မင်္ဂလာပါ
འཛམ་གླིང, བོད; ལྷ་ས; བཀྲ་ཤིས་བདེ་ལེགས
ግን, መረጃ, ዓለም; አዲስ አበባ; ሰላም ለዓለም
하지만, 정보, 세계; 서울, 김민준; 안녕하세요
但是, 可以, 非常, 世界, 时间, 问题, 我们, 說話, 你們, 這裡, 你们, 怎么, 国家, 学习, 語言, 電話; \
北京, 上海, 王明, 东京, 東京, 臺灣, 广州, 佛罗伦萨, 中国, 埃及; 千里之行, 你好, 这是什么, 這是什麼, 學而時習之, 国家
しかし, ありがとう, テスト, 駅, 気持ち; トヨタ, さくら; ありがとう
ᏂᎦᏓ, ᎠᏂᏴᏫ; ᏣᎳᎩ; ᎣᏏᏲ
"""
_CODE = {CODE: ("print(x)", "README.md", "git status"), BLOCK: ("python\nprint(x)", "bash\ngit status")}


def _read(part: int) -> tuple[str, ...]:
    return tuple(text.strip() for line in _TEXTS.strip().splitlines() for text in line.split(";")[part].split(","))


_WORDS = _read(0)
_SWITCHES = {BRACKETS: _read(1), QUOTATION: _read(2), **_CODE}


def _of(family: str, families: FamilySet, texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text for text in texts if family in text_families(text, families))


@lru_cache(maxsize=256)
def words(family: str, families: FamilySet) -> tuple[str, ...]:
    """Words that hold a letter of one of a gate's families."""
    return _of(family, families, _WORDS)


@lru_cache(maxsize=256)
def switches(family: str, families: FamilySet) -> dict[str, tuple[str, ...]]:
    """By kind, one of `SPLICED`, texts that hold a letter of one of a gate's families; a kind without any is absent."""
    found = {kind: _of(family, families, texts) for kind, texts in _SWITCHES.items()}
    return {kind: texts for kind, texts in found.items() if texts}
