"""Config classes of architectures that vLLM computes but neither it nor transformers can read the config of.

Their checkpoints bring the class as Python code (`trust_remote_code`), which a model with random weights, made
from `config.json` values alone, does not have. Each of these differs from Llama's config by further values only,
which a config keeps as they come, and vLLM's models read them by the same names.
"""

from __future__ import annotations

from transformers import AutoConfig, LlamaConfig


class InternLM2Config(LlamaConfig):  # type: ignore[misc]
    model_type = "internlm2"


class DeepseekConfig(LlamaConfig):  # type: ignore[misc]
    """DeepSeek's first mixture of experts (arXiv 2401.06066); V2 and V3 have classes in transformers."""

    model_type = "deepseek"


class SolarConfig(LlamaConfig):  # type: ignore[misc]
    """Solar Pro Preview: Llama's layers with skips between them (`bskcn_*`)."""

    model_type = "solar"


CLASSES = (InternLM2Config, DeepseekConfig, SolarConfig)


def register() -> None:
    """Makes `AutoConfig` know these classes; where transformers has one of its own by now, that stays."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for config_class in CLASSES:
        if config_class.model_type not in CONFIG_MAPPING:
            AutoConfig.register(config_class.model_type, config_class)
