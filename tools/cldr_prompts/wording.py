"""What the prompts say, and what their answers must hold."""

from __future__ import annotations

# by language of the instruction
SINGLE = "What is “{text}” called in {language}? Reply with the name only."
LIST = {
    "en": "Translate these {kind} into {language}. Reply with the translations only, one per line.\n\n{text}",
    "zh": "请把这些{kind}翻译成{language}。只回复译文，每行一个。\n\n{text}",
}
KINDS = {
    "place": {"en": "names of places", "zh": "地名"},
    "language": {"en": "names of languages", "zh": "语言名称"},
    "currency": {"en": "names of currencies", "zh": "货币名称"},
    "date": {"en": "dates", "zh": "日期"},
    "quantity": {"en": "quantities", "zh": "数量"},
}
SENTENCE = {
    "en": "Translate into {language}. Reply with the translation only.\n\n{text}",
    "zh": "请翻译成{language}，只回复译文。\n\n{text}",
}
ENGLISH_IN_BRACKETS = {
    "en": "Translate these names into {language}. Put the English name in brackets behind each translation. One per "
    "line, nothing else.\n\n{text}",
    "zh": "请把这些英文名称翻译成{language}，并在每个译名后面用括号保留英文名称。每行一个，不要写别的。\n\n{text}",
}
CHINESE_IN_BRACKETS = (
    "Translate these names into {language}. Put the simplified Chinese name in brackets behind each translation. One "
    "per line, nothing else.\n\n{text}"
)
QUOTED_TITLE = (
    "Who wrote “{title}”? Answer in one sentence in {language}, and keep the title in English, exactly as it is "
    "written here."
)
CODE = (
    "Write a short Python function {signature} that {task}. Write its comments in {language}, and explain it in one "
    "sentence in {language}."
)

TITLES = (
    "Pride and Prejudice",
    "Romeo and Juliet",
    "The Great Gatsby",
    "Oliver Twist",
    "Treasure Island",
    "Animal Farm",
    "Robinson Crusoe",
    "Jane Eyre",
    "The Jungle Book",
    "The Old Man and the Sea",
    "A Christmas Carol",
    "Alice in Wonderland",
)
# signature -> task
FUNCTIONS = {
    "celsius(f)": "converts a temperature from Fahrenheit to Celsius",
    "is_even(n)": "tells whether a number is even",
    "factorial(n)": "computes the factorial of a number",
    "circle_area(r)": "computes the area of a circle from its radius",
    "average(numbers)": "computes the average of a list of numbers",
    "count_words(text)": "counts the words of a text",
    "largest(numbers)": "finds the largest number of a list",
    "total_price(prices)": "adds up a list of prices",
}

# what fills the blanks of sentences.json that have no name in CLDR
FILES = ("PDF", "MP3", "HTML", "CSV", "JPG", "ZIP")
MAILS = ("anna@example.com", "info@example.org", "shop@example.net")
SITES = ("www.example.com", "www.example.org", "www.example.net")
