"""Small WordPiece tokenizers as BERT's are."""

from __future__ import annotations

import string
from typing import Any

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "of",
    "un",
    "##believ",
    "##able",
    "Cat",
    "cat",
    "it",
    "'",
    "antidisestablish",
    "abcdefghijklmnop",
    "caf\u00e9",
    "\u20ac",
]


def bert(
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    clean_text: bool = True,
    lower_first: bool = False,
    length: int | None = None,
    longest: int = 100,
) -> Any:
    """Pieces of one character for all of ASCII but "q", and a few words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    single = [
        char for char in string.ascii_letters + string.digits + string.punctuation + "\u00e9\u00df\u2019\u201c" if char != "q"
    ]
    pieces = [*SPECIAL, *single, *(f"##{char}" for char in single), *WORDS]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=longest))
    normalizer = normalizers.BertNormalizer(
        clean_text=clean_text, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
    )
    made.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizer]) if lower_first else normalizer
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.add_special_tokens(SPECIAL)
    if length is not None:
        made.enable_truncation(length)
    return made
