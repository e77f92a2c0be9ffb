"""What clients send, checked before anything is done with it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

Side = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
Corners = tuple[Side, Side, Side, Side]
ImageId = Annotated[str, Field(pattern=r"^[0-9a-f]{24}$", description="As `/v1/images` gave it.")]


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PredictRequest(_Sent):
    """Masses marked on an image at hand."""

    image: ImageId
    boxes: list[Corners] = Field(min_length=1, description="(x0, y0, x1, y1) in pixels of the file, each a mass.")


class MarkedMass(_Sent):
    """One mass marked on an image at hand."""

    image: ImageId
    box: Corners


class SimilarRequest(MarkedMass):
    """A mass, and how many cases of each class are wanted."""

    n: int = Field(4, ge=1, le=50)


class ReportRequest(PredictRequest):
    """What is to be downloaded."""

    format: Literal["json", "sr"] = "json"


class ReadingRequest(_Sent):
    """Who reads: a code, not a name."""

    reader: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    seed: int = Field(0, ge=0, le=2**31 - 1)


class ScoreRequest(_Sent):
    """A reader's score of an image, 0 (surely benign) to 100 (surely malignant)."""

    image: ImageId
    box: Corners | None = None
    stage: Literal["without", "with"]
    score: FiniteFloat = Field(ge=0, le=100)
    seconds: FiniteFloat = Field(ge=0, le=86400)
