"""Records that several tests score."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

GROUPS: list[dict[str, Any]] = [
    {"prompt": prompt, "reference": reference, "output": output}
    for prompt, reference, outputs in [
        ("What is the capital of China?", "Beijing.", ["Beijing.", "Shanghai.", "", "北京"]),
        ("Add 12 and 24.", "12 + 24 = 36", ["36", "12 + 24 = 36", "It is 38, I think."]),
        ("写一句话介绍长城。", "长城是中国古代的防御工程。", ["长城很长。", "the wall", "\n\n"]),
        ("", "a", ["b" * 300, "a"]),
    ]
    for output in outputs
]
"""Twelve records in four groups, one of them much longer than the rest."""

BAD_ROWS: list[tuple[Any, str]] = [
    (5, "not_an_object"),
    ("text", "not_an_object"),
    (None, "not_an_object"),
    ({"prompt": "p", "reference": "r"}, "missing_field"),
    ({"prompt": "p", "reference": None, "output": "o"}, "null_field"),
    ({"prompt": 3, "reference": "r", "output": "o"}, "bad_message"),
    ({"prompt": [{"role": "user"}], "reference": "r", "output": "o"}, "bad_message"),
    ({"prompt": [{"content": None}], "reference": "r", "output": "o"}, "bad_message"),
    ({"prompt": [], "reference": "r", "output": "o"}, "bad_message"),
    ({"prompt": "p", "reference": [], "output": "o"}, "bad_message"),
    ({"prompt": ["text"], "reference": "r", "output": "o"}, "bad_message"),
    ({"prompt": b"bytes", "reference": "r", "output": "o"}, "bad_message"),
    ({"prompt": "\ud800", "reference": "r", "output": "o"}, "bad_text"),
    ({"prompt": "p", "reference": "r", "output": "o", "wrapper": "rlhf"}, "bad_wrapper"),
]
"""Single records that cannot be scored, and the code that their row must carry."""

texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="ab \n.12\u2581北京<|>reward[UNUSED_TOKEN_130]", max_size=60),
    st.text(alphabet="\u2581 the'sl\n", max_size=12),
    st.sampled_from(["<|reward|>", "[UNUSED_TOKEN_130]", "x<|reward|>\n", "  ", "\n\n", "a. \n"]),
)
"""Texts that try tokenizers: any Unicode, white space, sentencepiece's sign for it, digits, and
control strings."""

records = st.fixed_dictionaries({"prompt": texts, "reference": texts, "output": texts})
