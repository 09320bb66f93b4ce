"""Makes a model with random weights and a tokeniser of whole words; runs in the engine's interpreter.

    python make_model.py CONFIG.json FOLDER SEED

Separate from `metainf` proper, which has neither transformers nor torch: it only hands over a config. A word is a token
and a token is a word, so that prompts keep their length through decoding and encoding.
"""

import json
import sys
from importlib import import_module
from pathlib import Path


def main(config_path: Path, folder: Path, seed: int) -> None:
    """Write config, weights and tokeniser into the folder."""
    torch, transformers, tokenizers = (import_module(name) for name in ("torch", "transformers", "tokenizers"))
    fields = json.loads(config_path.read_text(encoding="utf-8"))
    config = transformers.AutoConfig.for_model(**fields)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    # What transformers writes differs between its versions; the engine and the predictor must read the same fields.
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**written, **fields}, indent=2, sort_keys=True), encoding="utf-8")
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {f"w{place}": place for place in range(3, fields["vocab_size"])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    print(json.dumps({"parameters": sum(each.numel() for each in model.parameters())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
