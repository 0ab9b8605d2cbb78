"""What goes over the wire: the shapes of text-embeddings-inference and of OpenAI, and our own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

_MOST_KEYS = 100


def _few_keys(value: Any) -> Any:
    """Refuse an object with so many keys that checking each would take long.

    Raises:
        ValueError: It has more than 100.
    """
    if isinstance(value, dict) and len(value) > _MOST_KEYS:
        raise ValueError(f"{len(value):,} keys, at most {_MOST_KEYS} are taken")
    return value


# The first thing that is wrong is told, and no other is looked for.
Text = Annotated[str, StringConstraints(strict=True)]
Texts = Annotated[list[Text], Field(fail_fast=True)]
Id = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=512)]
Facts = Annotated[dict[str, str | int | float | bool], BeforeValidator(_few_keys)]


class _Few(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        return _few_keys(value)


class _Body(_Few):
    # Clients of these shapes send keys that only other models need.
    model_config = ConfigDict(extra="ignore")


class Own(_Few):
    """A body of our own routes: unknown keys are refused, so that a typing error is."""

    model_config = ConfigDict(extra="forbid")


class EmbedRequest(_Body):
    """Body of `/embed`."""

    inputs: Text | Texts = Field(description="A text, or a list of them; images in base64 where the twin takes images.")
    normalize: bool = Field(True, description="Vectors have length 1; there are no others.")
    truncate: bool | None = Field(None, description="Cut what is longer than the model reads, instead of refusing it.")
    dimensions: int | None = Field(None, ge=1, description="Keep the first so many numbers, scaled to length 1 again.")


class SimilarityInputs(_Body):
    """A sentence, and those that it is compared with."""

    source_sentence: Text
    sentences: Texts


class Parameters(_Body):
    """What may come beside the inputs."""

    truncate: bool | None = None


class SimilarityRequest(_Body):
    """Body of `/similarity`."""

    inputs: SimilarityInputs
    parameters: Parameters | None = None


class RerankRequest(_Body):
    """Body of `/rerank`."""

    query: Text
    texts: Texts
    raw_scores: bool = Field(False, description="The twin's similarity, instead of the probability.")
    return_text: bool = False
    truncate: bool | None = None


class Rank(BaseModel):
    """A text and its score."""

    index: int
    score: float
    text: str | None = None


class OpenAIRequest(_Body):
    """Body of `/v1/embeddings`."""

    input: Text | Texts
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None


class OpenAIEmbedding(BaseModel):
    """A vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int


class OpenAIResponse(BaseModel):
    """Answer of `/v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: Usage


class Problem(BaseModel):
    """An error."""

    error: str
    error_type: str


class OpenAIReason(BaseModel):
    """What is wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: int


class OpenAIProblem(BaseModel):
    """An error of a route under `/v1`."""

    error: OpenAIReason


class Info(BaseModel):
    """Facts about the model and the limits."""

    model_id: str
    model_sha: str = Field(description="Fingerprint of all that a vector depends on.")
    model_dtype: str
    model_type: dict[str, Any]
    dim: int
    max_input_length: int | None
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    threshold: float | None
    questions: int | None = Field(description="Questions of the index.")
    version: str


class DuplicatesRequest(Own):
    """Body of `/duplicates`."""

    question: Text | None = Field(None, description="A question; or give several as `questions`.")
    questions: Texts | None = None
    limit: int = Field(10, ge=1, le=1000, description="Duplicates of a question at most.")
    threshold: float | None = Field(
        None, allow_inf_nan=False, description="Least similarity, instead of the learned one."
    )
    where: Facts | None = Field(None, description="Only questions with these metadata.")


class Duplicate(BaseModel):
    """A question of the index that is the same, and how sure that is."""

    id: str
    text: str
    metadata: dict[str, str | int | float | bool]
    similarity: float
    probability: float | None


class DuplicatesVerdict(BaseModel):
    """What is said of a question.

    `canonical` is the duplicate that stands best for all of them: the one nearest to the others.
    """

    question: str
    duplicate: bool
    threshold: float
    canonical: Duplicate | None
    duplicates: list[Duplicate]


class QuestionBody(Own):
    """A question to keep."""

    text: Text
    metadata: Facts = {}


class NewQuestion(QuestionBody):
    """A question to keep, with its id."""

    id: Id


class QuestionsBatch(Own):
    """Body of `/questions:batch`: what is deleted first, then what is kept."""

    delete: Annotated[list[Id], Field(fail_fast=True)] = []
    upsert: Annotated[list[NewQuestion], Field(fail_fast=True)] = []


class Written(BaseModel):
    """What a write did."""

    upserted: int
    deleted: int
    suspects: int = Field(description="Suspected duplicates that were queued for a moderator.")


class StoredQuestion(NewQuestion):
    """A question of the index."""


class FeedbackRequest(Own):
    """Body of `/feedback`: what a person decided about two questions."""

    question1: Text
    question2: Text
    duplicate: bool
    id1: Id | None = None
    id2: Id | None = None


class FeedbackAnswer(BaseModel):
    """The pair, as it is kept."""

    number: int
    state: str
