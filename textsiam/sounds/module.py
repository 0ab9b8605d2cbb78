"""What the first modules of towers that hear have in common."""

from __future__ import annotations

from typing import Any, Self

from sentence_transformers.base.modules import InputModule


class SoundModule(InputModule):
    """The first module of a tower that hears; it is saved as its config and its weights.

    A subclass has `preprocess`, `forward`, `get_embedding_dimension`, and names the arguments it is made of in
    `config_keys`.

    Attributes:
        rate: Samples a second that sounds are resampled to.
    """

    rate: int
    config_keys: list[str] = []  # noqa: RUF012
    tokenizer: Any = None

    @property
    def modalities(self) -> list[Any]:
        """What it takes."""
        return ["audio"]

    @property
    def sampling_rate(self) -> int:
        """Samples a second."""
        return self.rate

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the config and the weights."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> Self:
        """Read what `save` wrote."""
        known = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        where = {name: kwargs[name] for name in known if name in kwargs}
        model = cls(**cls.load_config(model_name_or_path, **where))
        return cls.load_torch_weights(model_name_or_path, model=model, **where)  # pyright: ignore
