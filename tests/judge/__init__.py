"""transformers' own tests as a judge: what passes without hetsched has to pass with it.

`python -m tests.judge --tests FOLDER` runs the model tests of a copy of transformers' tests twice, once as they are and
once with every model's experts under hetsched, and lists what only fails with it. The copy is never part of this
project: a checkout of the release (`git clone --depth 1 --branch v5.23.0 .../transformers`), or its source package
(`pip download --no-deps --no-binary :all: transformers==5.23.0`, unpacked), which has the tests that all models share
but neither those of generation nor the models' own files.
"""

JUDGED = {
    "Mixtral": "mixtral",
    "Qwen3Moe": "qwen3_moe",
    "Olmoe": "olmoe",
    "DeepseekV3": "deepseek_v3",
    "GptOss": "gpt_oss",
}  # classes' names, and folders of their tests
