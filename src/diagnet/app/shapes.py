"""What clients send, checked before anything is done with it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

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


class Click(_Sent):
    """A place inside a mass on an image at hand, in pixels of the file."""

    image: ImageId
    x: Side
    y: Side


class SimilarRequest(MarkedMass):
    """A mass, and how many cases of each class are wanted."""

    n: int = Field(4, ge=1, le=50)


class ReportRequest(PredictRequest):
    """What is to be downloaded."""

    format: Literal["json", "sr"] = "json"


class ReadingRequest(_Sent):
    """Who reads: a code, not a name."""

    reader: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")  # -1 is iMRMC's sign of a row of truth
    seed: int | None = Field(None, ge=0, le=2**31 - 1, description="Of the order; drawn where none is given.")


class ScoreRequest(_Sent):
    """A reader's score of an image, 0 (surely benign) to 100 (surely malignant)."""

    image: ImageId
    box: Corners | None = None
    stage: Literal["without", "with"]
    score: FiniteFloat = Field(ge=0, le=100)
    seconds: FiniteFloat = Field(ge=0, le=86400)
    no_mass: bool = Field(False, description="No mass was seen: no box, score 0, and nothing for the model to score.")

    @model_validator(mode="after")
    def _check_no_mass(self) -> "ScoreRequest":
        if self.no_mass and (self.box is not None or self.score != 0 or self.stage != "without"):
            raise ValueError("`no_mass` must come without a box, with score 0, at the stage without")
        return self
