from stoker.model.tokenizer.vocabulary import TokenEncoding, Vocabulary, byte_alphabet


def test_byte_alphabet_is_one_to_one_and_prints() -> None:
    table = byte_alphabet()
    assert sorted(table.values()) == list(range(256))
    assert all(char.isprintable() and not char.isspace() for char in table)
    assert (table["A"], table["Ġ"], table["Ċ"], table["ł"]) == (0x41, 0x20, 0x0A, 0xA0)


def test_bytelevel_tokens() -> None:
    tokens = ["Ġthe", "æĹ¥", "æ", None, "<a b>", "日"]
    vocabulary = Vocabulary(tokens, TokenEncoding.BYTE_LEVEL, {4: "<a b>"})
    spelled = [vocabulary.token_bytes(i) for i in range(-1, 7)]
    assert spelled == [b"", b" the", "日".encode(), b"\xe6", b"", b"<a b>", "日".encode(), b""]
    assert vocabulary.token_text(1) == "日"
    assert vocabulary.token_text(2) is None


def test_sentencepiece_tokens() -> None:
    tokens = ["▁▁a", "<0xE6>", "<0xE6", "▁", "▁"]
    vocabulary = Vocabulary(tokens, TokenEncoding.SENTENCEPIECE, {4: "▁"})
    spelled = [vocabulary.token_bytes(i) for i in range(5)]
    assert spelled == [b"  a", b"\xe6", b"<0xE6", b" ", "▁".encode()]
    assert [vocabulary.token_text(i) for i in (0, 1)] == ["  a", None]
