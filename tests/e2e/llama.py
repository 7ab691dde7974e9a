"""llama.cpp and Ollama's part of an exported model, for tests."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFReader


@dataclass(frozen=True)
class Llama:
    """llama.cpp's programs."""

    folder: Path
    scratch: Path

    def answer(self, model: Path, prompt: str, tokens: int, lora: Path | None = None) -> bytes:
        """Return the greedy continuation of a rendered prompt."""
        command = [
            # It drops one line feed at the file's end.
            *("-m", model, "-f", self._file(prompt + "\n"), "-n", tokens, "--temp", 0, "--ctx-size", 2048),
            *("--no-conversation", "--no-display-prompt", "--no-warmup", "--simple-io"),
        ]
        return self._run("llama-completion", *command, *(["--lora", lora] if lora else []))

    def token_ids(self, model: Path, text: str) -> list[int]:
        """Return a text's tokens, special ones read as such, as a prompt's are."""
        out = self._run("llama-tokenize", "-m", model, "-f", self._file(text), "--ids", "--log-disable")
        return [int(token) for token in re.findall(rb"\d+", out)]

    def convert(self, model: Path) -> Path:
        """Return a model in Hugging Face's format as an f16 GGUF."""
        converted = self.scratch / f"{model.name}.gguf"
        script = self.folder / "convert_hf_to_gguf.py"
        command = [sys.executable, script, model, "--outfile", converted, "--outtype", "f16"]
        subprocess.run(command, check=True, capture_output=True)
        return converted

    def _file(self, text: str) -> Path:
        path = self.scratch / "prompt"
        path.write_text(text)
        return path

    def _run(self, program: str, *arguments: object) -> bytes:
        command = [str(self.folder / "bin" / program), *map(str, arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return done.stdout


class Reference:
    """The greedy answer of transformers and PEFT in float32, and how sure each of its tokens was."""

    def __init__(self, tokenizer: Any, base: Path, adapter: Path, prompt: list[int], tokens: int) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self._tokenizer = tokenizer
        self._byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(adapter)
        )
        out = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=tokens,
            do_sample=False,
            repetition_penalty=1.0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        ids: list[int] = out.sequences[0, len(prompt) :].tolist()
        # The end of an answer is no text.
        self.ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
        best = [step[0].topk(2).values.tolist() for step in out.logits]
        self._gaps = [first - second for first, second in best]

    def bytes_of(self, ids: list[int]) -> bytes:
        """Return what tokens stand for; a token may be a part of a character."""
        text = "".join(self._tokenizer.convert_ids_to_tokens(ids))
        return bytes(self._byte_of[character] for character in text)

    def parting(self, answer: bytes) -> tuple[int, float]:
        """Return how many tokens an answer begins with, and how far apart the two likeliest were where it left."""
        agreeing = 0
        while agreeing < len(self.ids) and answer.startswith(self.bytes_of(self.ids[: agreeing + 1])):
            agreeing += 1
        return agreeing, self._gaps[agreeing] if agreeing < len(self.ids) else 0.0


def chat_template(model: Path) -> Any:
    """Return the chat template that a GGUF carries."""
    field = GGUFReader(model).get_field("tokenizer.chat_template")
    return field and field.contents()


_BRANCHES = re.compile(
    r'\{\{ range \.Messages \}\}\{\{ if eq \.Role "system" \}\}(?P<system>.*?)'
    r'\{\{ else if eq \.Role "user" \}\}(?P<user>.*?)'
    r'\{\{ else if eq \.Role "assistant" \}\}(?P<assistant>.*?)\{\{ end \}\}\{\{ end \}\}',
    re.DOTALL,
)


def go_rendered(modelfile: str, messages: list[Any]) -> str:
    """Return what Ollama makes of messages, for the few constructs of Go's templates that we write."""
    template = modelfile.partition('TEMPLATE """')[2].partition('"""')[0]
    branches = _BRANCHES.fullmatch(template)
    assert branches is not None, template
    rendered = [
        branches[message["role"]].replace("{{ .Content }}", message["content"]) for message in messages
    ]
    return "".join(rendered)
