"""Write a small tokenizer, with words from a seed, for clients that need one. Usage: make_tokenizer.py FOLDER."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

draw, folder = random.Random(0), Path(sys.argv[1])
syllables = [one + two for one in "bcdfghjklmnprstvwz" for two in "aeiou"]
words = ["".join(draw.choice(syllables) for _ in range(draw.randint(1, 4))) for _ in range(3000)]
corpus = [" ".join(draw.choice(words) for _ in range(100)) for _ in range(200)]
tokenizer = Tokenizer(models.BPE())
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
tokenizer.train_from_iterator(
    corpus, trainers.BpeTrainer(vocab_size=4096, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
)
folder.mkdir(parents=True, exist_ok=True)
tokenizer.save(str(folder / "tokenizer.json"))
template = (
    "{% for m in messages %}<|im_start|>{{m['role']}}\n{{m['content']}}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
(folder / "tokenizer_config.json").write_text(json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[0],
    "pad_token": special[0], "model_max_length": 131072, "clean_up_tokenization_spaces": False,
    "chat_template": template,
}))  # fmt: skip
(folder / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": tokenizer.get_vocab_size(),
    "max_position_embeddings": 32768,
}))  # fmt: skip
