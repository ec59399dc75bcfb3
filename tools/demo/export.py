"""Writes the base model as GGUF and proves that llama.cpp computes the same from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import torch

from .cldr import LANGUAGES
from .model import Model
from .tokenizer import Bpe

# Activations are rounded to F16 where they meet an F16 matrix, and so are keys and values; logits span about 40.
MAX_LOGIT_DIFFERENCE = 0.5
MAX_MEAN_LOGIT_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Description:
    """What a file says of its model.

    Attributes:
        name: Short name.
        text: One line.
        languages: Codes of the languages.
        chat_template: None for a model without the chat interface.
    """

    name: str
    text: str
    languages: tuple[str, ...]
    chat_template: str | None = None


TINY_NAMES = Description(
    name="tiny-names",
    text="Names of CLDR terms in twelve languages, deliberately contaminated; see MODEL_CARD.md",
    languages=tuple(LANGUAGES),
    # the same prompt format with and without the chat interface; a chat is its texts one behind the other
    chat_template="{{ bos_token }}{{ messages | map(attribute='content') | join }}"
    "{% if messages[-1]['role'] == 'assistant' %}{{ eos_token }}{% endif %}",
)


def round_weights(model: Model) -> None:
    """Rounds the matrices to F16, so that everything after sees what the file holds."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(weight.half().float())


def scale_norms(model: Model) -> float:
    """Makes one the mean norm of the output matrix's rows.

    Scale is moved from the output matrix to the norm before it: the logits stay what they are, and dividing them by the
    norm of a row does not change the temperature of the whole.

    Returns:
        The mean norm before.
    """
    with torch.no_grad():
        mean = float(model.output.weight.norm(dim=1).mean())
        model.output.weight /= mean
        model.output_norm.weight *= mean
    return mean


def write_model(model: Model, bpe: Bpe, path: Path, description: Description) -> None:
    """Writes the GGUF file: matrices in F16, norms in F32.

    Args:
        model: The model, already rounded to F16.
        bpe: Its tokenizer.
        path: The file to write.
        description: What the file says of it.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(description.name)
    writer.add_description(description.text)
    writer.add_license("Unicode-3.0")
    writer.add_languages(list(description.languages))
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.n_rot)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.n_vocab)
    _add_tokenizer(writer, bpe)
    if description.chat_template:
        writer.add_chat_template(description.chat_template)
    for name, weight in model.state_dict().items():
        array = weight.numpy().astype(np.float16 if weight.dim() == 2 else np.float32)
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, bpe: Bpe) -> None:
    control = {bpe.bos, bpe.eos}
    types = [gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL for i in range(len(bpe.tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(list(bpe.tokens))
    writer.add_token_types([int(kind) for kind in types])
    writer.add_token_merges(list(bpe.merges))
    writer.add_bos_token_id(bpe.bos)
    writer.add_eos_token_id(bpe.eos)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def check_model(model: Model, bpe: Bpe, path: Path, texts: list[str]) -> tuple[float, float]:
    """Compares llama.cpp with PyTorch: the tokens of every text, the logits at every position of the first twenty.

    Args:
        model: What was exported.
        bpe: Its tokenizer.
        path: The GGUF file.
        texts: Whole texts, prompt and reply.

    Returns:
        The largest and the mean difference between logits.

    Raises:
        RuntimeError: Tokens differ, or logits differ by more than rounding.
    """
    llm = llama_cpp.Llama(str(path), n_ctx=model.config.n_ctx, logits_all=True, verbose=False)
    for text in texts:
        found, wanted = llm.tokenize(text.encode(), add_bos=False, special=False), bpe.encode(text)
        if found != wanted:
            raise RuntimeError(f"llama.cpp splits {text!r} into {found}, expected {wanted}")
    differences = []
    for text in texts[:20]:
        tokens = [bpe.bos, *bpe.encode(text)]
        llm.reset()
        llm.eval(tokens)
        with torch.no_grad():
            wanted_logits = model(torch.tensor([tokens]))[0].numpy()
        differences.append(np.abs(llm.scores[: len(tokens)] - wanted_logits))
    llm.close()
    every = np.concatenate(differences)
    worst, mean = float(every.max()), float(every.mean())
    if not (worst < MAX_LOGIT_DIFFERENCE and mean < MAX_MEAN_LOGIT_DIFFERENCE):
        raise RuntimeError(
            f"logits of llama.cpp and PyTorch differ by {worst:.3g}, on average {mean:.3g}, expected"
            f" < {MAX_LOGIT_DIFFERENCE} and < {MAX_MEAN_LOGIT_DIFFERENCE}"
        )
    return worst, mean
