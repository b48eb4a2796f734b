"""Makes the golden data for tokenizers and chat templates.

    python tests/golden/text/make.py --smollm2 PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

Needs `transformers` (with `torch`), `sentencepiece` and `protobuf`, which the project itself does
not. Writes beside this script:

    sentencepiece.json   a small SentencePiece BPE vocabulary in GGUF's terms, and the ids that
                         SentencePiece itself gives for the corpus, with and without its space
    bytelevel/           a small byte-level BPE tokenizer as a Hugging Face directory
    bytelevel.json       the ids that Transformers gives for the corpus with it
    smollm2.json         the ids that Transformers gives for the corpus with SmolLM2's GGUF
    templates.json       what Transformers renders from templates/*.jinja and SmolLM2's template
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).parent

TRAINING = """
The stoker keeps the fire going, and the fire keeps the engine going.
When the engine is going well, nobody thinks of the stoker; when it stops, everybody does.
There were three hundred and sixty-five shovels of coal in every hour of the night.
def stoke(fire, coal):\n    for shovel in range(coal):\n        fire += shovel\n    return fire
Der Heizer hält das Feuer in Gang, und das Feuer hält die Maschine in Gang.
Le chauffeur entretient le feu, et le feu entretient la machine. Été comme hiver.
Кочегар поддерживает огонь, а огонь двигает машину.
火夫は火を絶やさず、火は機関を動かす。 火火火火
It's what they're for, isn't it? They'll say: "We've done 10, 20, 2024 rounds!"
"""

CORPUS = [
    "",
    " ",
    "   ",
    "\n",
    "\t\t\n \n",
    "the engine",
    " the engine",
    "The engine's fire isn't out; they'll stoke it.",
    "THEY'LL SAY IT'S DON'T",
    "def stoke(fire):\n    return fire  # 10 shovels\n\n\n",
    "a  b   c    d     e",
    "trailing   ",
    "123 4567 89012 3.14159 1,000,000",
    "½ ² Ⅷ ٣",
    "火夫は火を絶やさない。",
    "Кочегар, été, naïve, Ångström, Straße, ﬁre",
    "e\u0301 \u0301 A\u030a",
    "السلام עברית हिन्दी ไทย 한국어",
    "👩‍👩‍👧‍👦 🇫🇷 😀😀 👍🏽",
    "\u200b\ufeff\u00a0\u3000\u2581\u2581x",
    "\r\n\r\n\x00\x07\x7f",
    "{}[]()<>!@#$%^&*-_=+|\\/~`\"'",
    "https://example.org/a?b=c&d=%20",
    "x" * 40,
    "ab" * 20,
    " " * 40 + "x",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_end|>b <|im_end|> c",
    "<|im_en",
    "<s>[INST] fire </s>",
]

# Special tokens in the text: SentencePiece itself has no way to write them.
NO_MARKS = [text for text in CORPUS if "<s>" not in text and "\u2581" not in text]

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [{"role": "user", "content": "Is the fire lit?"}],
    "with system": [
        {"role": "system", "content": "  You tend the fire.\n"},
        {"role": "user", "content": 'Is it <lit> & "hot"?'},
        {"role": "assistant", "content": "It is.\n"},
        {"role": "user", "content": "Für immer? 火"},
    ],
    "tool call": [
        {"role": "user", "content": "How hot is it?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call1",
                    "type": "function",
                    "function": {"name": "gauge", "arguments": {"unit": "°C", "digits": 1}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call1", "content": '{"degrees": 1204.5}'},
    ],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "gauge",
            "description": "Reads the <gauge> & says 'how hot'.",
            "parameters": {"type": "object", "properties": {"unit": {"type": "string"}}},
        },
    }
]


def make_sentencepiece() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=620,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=["<fire>"],
        control_symbols=["<end_of_turn>"],
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    cases = []
    for space_prefix in (True, False):
        proto.normalizer_spec.add_dummy_prefix = space_prefix
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        texts = [*NO_MARKS, "a <fire>b", "<fire><fire>  x"] if not space_prefix else NO_MARKS
        cases.append(
            {
                "add_space_prefix": space_prefix,
                "ids": [[text, processor.encode(text)] for text in texts],
            }
        )
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.piece for piece in proto.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in proto.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in proto.pieces],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    write("sentencepiece.json", {"metadata": metadata, "cases": cases})


def make_bytelevel() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TRAINING.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=500,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[
                AddedToken(token, normalized=False, special=True)
                for token in ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
            ],
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<fire place>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    directory = HERE / "bytelevel"
    shutil.rmtree(directory, ignore_errors=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<|im_end|>"
    ).save_pretrained(directory)
    (directory / "generation_config.json").write_text('{"eos_token_id": [3, 1]}\n')
    loaded = AutoTokenizer.from_pretrained(directory)
    cases = []
    for text in [*CORPUS, "a<fire place>b"]:
        bare = loaded.encode(text, add_special_tokens=False)
        whole = loaded.encode(text)
        cases.append({"text": text, "ids": bare, "with_special": whole})
    write("bytelevel.json", cases)


def make_smollm2(path: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # The model's own tokenizer.json cuts digits apart; Transformers' reading of GGUF does not.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    write(
        "smollm2.json",
        [[text, tokenizer.encode(text, add_special_tokens=False)] for text in CORPUS],
    )
    return tokenizer


def make_templates(tokenizer: Any) -> None:
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    sources = {"smollm2": tokenizer.chat_template}
    sources |= {path.stem: path.read_text() for path in sorted((HERE / "templates").iterdir())}
    cases = []
    for name, source in sources.items():
        for label, messages in CONVERSATIONS.items():
            for tools in (None, TOOLS):
                for prompt in (True, False):
                    try:
                        text = tokenizer.apply_chat_template(
                            messages,
                            tools=tools,
                            chat_template=source,
                            add_generation_prompt=prompt,
                            tokenize=False,
                        )
                    except Exception as error:  # what the template refuses, ours must too
                        text = {"error": str(error)}
                    cases.append(
                        {
                            "template": name,
                            "conversation": label,
                            "tools": tools is not None,
                            "add_generation_prompt": prompt,
                            "text": text,
                        }
                    )
    write("templates.json", {"conversations": CONVERSATIONS, "tools": TOOLS, "cases": cases})


def write(name: str, value: object) -> None:
    text = json.dumps(value, ensure_ascii=True, indent=None, separators=(",", ":"))
    (HERE / name).write_text(text + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smollm2", type=Path, required=True)
    arguments = parser.parse_args()
    make_sentencepiece()
    make_bytelevel()
    make_templates(make_smollm2(arguments.smollm2))
