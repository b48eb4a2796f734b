"""GBNF: its syntax as llama.cpp documents it, and that its conversion matches exactly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.structured.gbnf import (
    EMPTY,
    Chars,
    Choice,
    GbnfError,
    Node,
    Repeat,
    RuleRef,
    Sequence,
    TokenRef,
    parse_gbnf,
)
from stoker.engine.structured.gbnf_to_lark import gbnf_to_lark
from tests.engine.doubles import EOS
from tests.engine.structured.drivers import accepts, byte_backend, compiled, random_text

BACKEND = byte_backend()


def char(text: str) -> Chars:
    return Chars(((ord(text), ord(text)),))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('"a"', char("a")),
        ('"ab"', Sequence((char("a"), char("b")))),
        ('""', EMPTY),
        ("[a-z_]", Chars(((97, 122), (95, 95)))),
        ("[^a-]", Chars(((97, 97), (45, 45)), negated=True)),
        (r"[\]\-\\]", Chars(((93, 93), (45, 45), (92, 92)))),
        (r'"\x41\u00e9\U0001F600\n\t\r\""', Sequence(tuple(map(char, 'Aé😀\n\t\r"')))),
        (".", Chars((), negated=True)),
        ('"a"*', Repeat(char("a"), 0, None)),
        ('"a"+', Repeat(char("a"), 1, None)),
        ('"a"?', Repeat(char("a"), 0, 1)),
        ('"a"{2}', Repeat(char("a"), 2, 2)),
        ('"a"{2,}', Repeat(char("a"), 2, None)),
        ('"a"{ 2 , 5 }', Repeat(char("a"), 2, 5)),
        ('"a"+?', Repeat(Repeat(char("a"), 1, None), 0, 1)),
        ('"a" | "b"', Choice((char("a"), char("b")))),
        ('"a" |\n "b"', Choice((char("a"), char("b")))),
        ('("a" # why\n "b")', Sequence((char("a"), char("b")))),
        ("<[7]>", TokenRef(7)),
        ("!<think>*", Repeat(TokenRef("<think>", negated=True), 0, None)),
        ("other-rule_1", RuleRef("other-rule_1")),
    ],
)
def test_parses(body: str, expected: Node) -> None:
    rules = parse_gbnf(f'# a comment\nroot ::= {body}\r\n\nother-rule_1 ::= "x" # end')
    assert rules["root"] == expected
    assert list(rules) == ["root", "other-rule_1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no rule 'root'"),
        ('rot ::= "a"', "there is no rule 'root'"),
        ("root ::= a", "rule 'root' uses 'a', which is not defined"),
        ("root := a", "line 1, column 6: expected '::='"),
        ('root ::= "a', "in the middle of a literal"),
        ("root ::= [a", "in the middle of a literal or set"),
        ("root ::= [z-a]", "a range runs backwards"),
        ("root ::= []", "matches nothing"),
        (r'root ::= "\q"', r"unknown escape '\q'"),
        (r'root ::= "\x4"', "needs 2 hexadecimal digits"),
        (r'root ::= "\U00110000"', "needs 8 hexadecimal digits of a character"),
        ('root ::= ("a"', "expected ')'"),
        ('root ::= "a")', "expected the end of the rule"),
        ('root ::= "a"\nroot ::= "b"', "'root' is defined twice"),
        ('root ::= "a"{3,2}', "more at least than at most"),
        ('root ::= "a"{9999}', "a repetition of more than 2000"),
        ('root ::= "a"{99999999999}', "a number of at most nine digits"),
        ('root ::= "a"{1', "expected '}'"),
        ("root ::= <think", "expected '>'"),
        ("root ::= <[1>", "expected ']>'"),
        ("root ::= !a", "expected '<'"),
        ("root ::= <nothing>", "'<nothing>' is no token of this model"),
        ("root ::= " + "(" * 65 + '"a"' + ")" * 65, "more than 64 parentheses"),
        ("root ::= [^\\x00-\\U0010FFFF]", "matches nothing"),
        ("root ::= [\\uD800]", "matches nothing"),
    ],
)
def test_refuses(text: str, reason: str) -> None:
    with pytest.raises(GbnfError, match=re.escape(reason)):
        gbnf_to_lark(text, lambda _: None)


JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = """
root  ::= (expr "=" ws term "\\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*
"""
LIST = """root ::= item+
# Excludes various line break characters
item ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"
"""
CHESS = """
root ::= ("1. " move " " move "\\n" ([1-9] [0-9]? ". " move " " move "\\n")+)
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (
            JSON,
            ["{}", '{ "a": [1, -2.5e+3, true, null], "b": {"c": "x\\n\\u00e9 ñ"} }'],
            ["[", "{,}"],
        ),
        (ARITHMETIC, ["a=1\n", "x1 +(2*3)= y\n1=1\n"], ["a=\n", "a=1", "(a=1)\n"]),
        (LIST, ["- one\n- two, é\n"], ["- \n", "- one", "one\n"]),
        (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n3. O-O exd5\n"], ["1. e4 e5\n", "1. e9 e5\n2. a3 a4\n"]),
        # Where a lexer that takes the longest match would fail.
        ('root ::= [a-z]+ "b"', ["ab", "abb", "bb"], ["a", "b", "ba"]),
        ('root ::= ("ab" | "abc") "cd"', ["abcd", "abccd"], ["abd", "abc"]),
        ('root ::= "a"* "a" "a"', ["aa", "aaaaa"], ["a", ""]),
        # Recursion of every kind.
        ('root ::= "x" root | "y"', ["y", "xxxy"], ["x", "yx"]),
        ('root ::= root "x" | "y"', ["y", "yxx"], ["x", "xy"]),
        ('root ::= ws "a"\nws ::= ([ \\t] ws)?', ["a", " \t a"], [" ", "a "]),
        ('root ::= "(" root ")" root | ""', ["", "(())()"], ["(", ")("]),
        ('root ::= a\na ::= "x" b | "z"\nb ::= "y" a', ["z", "xyxyz"], ["xz", "xy"]),
        # Characters of more than one byte.
        ('root ::= "é" . [^a] [ぁ-ゟ]', ["éaあか", "é😀ñぁ"], ["éaaあ", "éaあa", "eabあ"]),
        ('root ::= "a"{0,3} "b"{2,} ("cd"){2}', ["bbcdcd", "aaabbbcdcd"], ["aaaabbcdcd", "bcdcd"]),
    ],
)
def test_matches_what_llama_cpp_would(grammar: str, good: list[str], bad: list[str]) -> None:
    compiled_grammar = compiled(BACKEND, grammar=grammar)
    assert [text for text in good if not accepts(compiled_grammar, text)] == []
    assert [text for text in bad if accepts(compiled_grammar, text)] == []


def test_long_right_recursive_answers_do_not_exhaust_the_parser() -> None:
    grammar = compiled(BACKEND, grammar='root ::= ws "a"\nws ::= ([ \\t\\n] ws)?')
    matcher = grammar.matcher()
    for _ in range(5000):
        assert matcher.accept(ord(" "))
    assert matcher.accept(ord("a"))
    assert matcher.is_finished
    assert matcher.error is None


def test_a_token_can_be_named() -> None:
    grammar = compiled(BACKEND, grammar=f'root ::= "a" <[{EOS - 100}]> !<[98]> "c"')
    matcher = grammar.matcher()
    assert matcher.accept(ord("a"))
    assert not matcher.fork().accept(ord("b"))
    assert matcher.accept(EOS - 100)
    assert not matcher.fork().accept(ord("b"))
    assert matcher.accept(ord("x"))
    assert matcher.accept(ord("c"))
    assert matcher.is_finished


def _expressions() -> st.SearchStrategy[tuple[str, str]]:
    """A GBNF expression without recursion, and the same as a regular expression."""
    leaf = st.sampled_from(
        [('"a"', "a"), ('"ab"', "(?:ab)"), ("[ab]", "[ab]"), ("[^a]", "[^a]"), ('""', "(?:)")]
    )

    def extend(inner: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
        pairs = st.lists(inner, min_size=2, max_size=3)
        return st.one_of(
            pairs.map(lambda ps: (f"({' '.join(g for g, _ in ps)})", "".join(r for _, r in ps))),
            pairs.map(
                lambda ps: (
                    f"({' | '.join(g for g, _ in ps)})",
                    f"(?:{'|'.join(r for _, r in ps)})",
                )
            ),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}"])).map(
                lambda p: (f"({p[0][0]}){p[1]}", f"(?:{p[0][1]}){p[1]}")
            ),
        )

    return st.recursive(leaf, extend, max_leaves=6)


@settings(max_examples=60, deadline=None)
@given(_expressions(), st.lists(st.text("abc", max_size=6), max_size=8), st.integers(0, 999))
def test_agrees_with_regular_expressions(
    pair: tuple[str, str], texts: list[str], seed: int
) -> None:
    gbnf, regex = pair
    grammar = compiled(BACKEND, grammar=f"root ::= {gbnf}")
    for text in texts:
        matches = re.fullmatch(regex, text, re.DOTALL) is not None
        assert accepts(grammar, text) == matches, (gbnf, text)
    answer = random_text(grammar, seed, limit=60)
    assert answer is None or re.fullmatch(regex, answer, re.DOTALL)
