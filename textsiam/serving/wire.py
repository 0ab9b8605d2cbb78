"""What goes over the wire: the shapes of text-embeddings-inference and of OpenAI, and our own."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from textsiam.search.index.validation import LONGEST_ID
from textsiam.serving.admission.texts import Direction, Reading

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
TokenIds = Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]], Field(fail_fast=True)]
Inputs = Text | Annotated[list[Text | TokenIds], Field(fail_fast=True)] | TokenIds
Id = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=LONGEST_ID)]
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


class Parameters(_Body):
    """How texts are read."""

    truncate: bool | None = Field(None, description="Cut what is longer than the model reads, instead of refusing it.")
    truncation_direction: Direction = Field("right", description="At which end it is cut.")
    prompt_name: str | None = Field(None, description="Which of the model's prompts is put before each text.")

    @property
    def reading(self) -> Reading:
        """The same as the engine takes it."""
        return Reading(self.truncate, self.truncation_direction, self.prompt_name)


class EmbedAllRequest(Parameters):
    """Body of `/embed_all`."""

    inputs: Inputs = Field(
        description="A text or its token ids, or a list of these; images in base64 where the twin takes images."
    )


class TokenizeRequest(_Body):
    """Body of `/tokenize`."""

    inputs: Text | Texts
    add_special_tokens: bool = True
    prompt_name: str | None = None


class Token(BaseModel):
    """A token of a text: `start` and `stop` count its characters; a special token has none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(_Body):
    """Body of `/decode`."""

    ids: TokenIds | Annotated[list[TokenIds], Field(fail_fast=True)]
    skip_special_tokens: bool = True


class PredictRequest(_Body):
    """Body of `/predict`."""

    inputs: Text | Annotated[list[Text | Texts], Field(fail_fast=True)] = Field(
        description="A pair of inputs, or a list of pairs."
    )
    truncate: bool | None = None
    truncation_direction: Direction = "right"
    raw_scores: bool = Field(False, description="The twin's similarity, instead of the probability.")


class Prediction(BaseModel):
    """A label, "duplicate" or "different", and its score."""

    score: float
    label: Literal["duplicate", "different"]


class EmbedRequest(EmbedAllRequest):
    """Body of `/embed`."""

    normalize: bool = Field(True, description="Vectors of length 1, those that the model compares.")
    dimensions: int | None = Field(None, ge=1, description="Keep the first so many numbers, scaled to length 1 again.")


class SimilarityInputs(_Body):
    """A sentence, and those that it is compared with."""

    source_sentence: Text
    sentences: Texts


class SimilarityRequest(_Body):
    """Body of `/similarity`."""

    inputs: SimilarityInputs
    parameters: Parameters | None = None
    truncate: bool | None = None

    @property
    def reading(self) -> Reading:
        """How the texts are read; what stands among the parameters comes first."""
        given = Reading() if self.parameters is None else self.parameters.reading
        return replace(given, truncate=self.truncate) if given.truncate is None else given


class RerankRequest(_Body):
    """Body of `/rerank`."""

    query: Text
    texts: Texts
    raw_scores: bool = Field(False, description="The twin's similarity, instead of the probability.")
    return_text: bool = False
    truncate: bool | None = None
    truncation_direction: Direction = "right"


class Rank(BaseModel):
    """A text and its score."""

    index: int
    score: float
    text: str | None = None


class OpenAIRequest(_Body):
    """Body of `/v1/embeddings`."""

    input: Inputs
    model: str = ""
    truncate: bool | None = None
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


class OpenAIModel(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "textsiam"


class OpenAIModels(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


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
    served_model_name: str
    model_sha: str = Field(description="Fingerprint of all that a vector depends on.")
    model_dtype: str
    model_type: dict[str, Any]
    dim: int
    max_input_length: int | None
    max_concurrent_requests: int = Field(description="Each has a token at least, and so many tokens may wait.")
    max_batch_tokens: int
    max_batch_requests: int | None = None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    sha: str | None = None
    docker_label: str | None = None
    threshold: float | None
    questions: int | None = Field(description="Questions of the index.")
    domain_shift: str | None = Field(
        description="In what the questions, of late, are unlike those that the decision was learned on."
    )
    gallery_drift: str | None = Field(
        description="In what the inputs, of late, are unlike those that the gallery was calibrated on."
    )
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
