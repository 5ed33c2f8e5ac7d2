"""What a request to score asks for: the fields, and how they come as multipart or JSON."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from anovl.config import MOST_NAMES
from anovl.naming import vocabulary
from anovl.server.batching import Ticket
from anovl.server.hosting import Words
from anovl.server.problems import Problem

MULTIPART, JSON = "multipart/form-data", "application/json"
MAX_FIELDS = 64  # of a form, files not counted
MAX_FIELD_BYTES = 4096
MAX_FILENAME = 255
_MAX_DETAIL = 1000
_LISTS = ("defects", "names", "return")

Part = Literal["score", "regions", "map", "overlay"]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Fields(BaseModel):
    """What to look for, and what to answer."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    class_name: Text | None = Field(None, description="What the images show, such as 'metal nut'.")
    domain: Literal["auto", "object", "texture", "plain"] | None = Field(None, description="Which domain words the prompts use.")
    defects: list[Text] = Field(default_factory=list, max_length=16, description="Known defects, such as 'scratch'.")
    names: list[Text] = Field(
        default_factory=list,
        max_length=MOST_NAMES,
        description="Words to name each region by, such as 'scratch' and 'hole', or 'default' alone.",
    )
    adapt: bool = Field(default=False, description="Adapt to each image at test time.")
    seed: int = Field(0, ge=0, lt=2**53, description="Of the adaptation.")
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False, description="Default the model's.")
    model: Text | None = Field(None, description="A name of /v1/info; default the first.")
    returns: list[Part] = Field(default=["score", "regions"], alias="return", max_length=8, description="What to answer.")
    map_format: Literal["png16", "npy"] = Field("png16", description="16-bit PNG (value x 65535) or float32 .npy.")

    def words(self, class_name: str | None) -> Words:
        """What the job depends on; `class_name` stands where the request names none."""
        return Words(
            class_name=self.class_name or class_name,
            domain=self.domain,
            defects=tuple(self.defects),
            names=vocabulary(self.names),
            adapt=self.adapt,
            seed=self.seed,
        )


class JsonRequest(Fields):
    """The same with the images inside, for callers without multipart."""

    images: list[str] = Field(min_length=1, description="Image files in base64.")


class Upload:
    """An image file as it came.

    Attributes:
        filename: what the caller calls it; never used as a path.
        data: its bytes.
    """

    def __init__(self, filename: str, data: bytes | bytearray) -> None:
        self.filename = filename[:MAX_FILENAME]
        self.data = data


async def read_body(request: Request, ticket: Ticket, *, max_bytes: int) -> bytes:
    """The body, refused as soon as it is known to be too large.

    Raises:
        Problem: 413, 429.
    """
    too_large = Problem(413, f"the request is over the limit of {max_bytes:,} bytes (--max-bytes); send fewer or smaller images")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > max_bytes:
            raise too_large
        ticket.take_bytes(len(chunk))
        body += chunk
    return bytes(body)


def content_type(request: Request) -> str:
    """The header, of a type that can be read; Problem 415 for another, or for a body that is compressed as a whole."""
    if (coding := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        raise Problem(415, f"Content-Encoding: expected none, got {coding[:MAX_FILENAME]!r}; send the body as it is")
    header = request.headers.get("content-type", "")
    if (kind := _media_type(header)) not in (MULTIPART, JSON):
        raise Problem(415, f"Content-Type: expected {MULTIPART} or {JSON}, got {kind[:MAX_FILENAME] or 'none'!r}")
    return header


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def parse(content_type: str, body: bytes, *, max_files: int) -> tuple[Fields, list[Upload]]:
    """Fields and images of a body.

    Raises:
        Problem: 400 for a body that is not what it says, 413 for too many images, 422 for fields that are not valid.
    """
    if _media_type(content_type) == JSON:
        return _parse_json(body, max_files)
    form = _Form(max_files)
    form.parse(content_type, body)
    if not form.uploads:
        raise Problem(422, "files: expected at least one image file, got none")
    return form.fields(), form.uploads


def _parse_json(body: bytes, max_files: int) -> tuple[Fields, list[Upload]]:
    try:
        fields = JsonRequest.model_validate_json(body, strict=True, by_alias=True, by_name=False)
    except ValidationError as exc:
        raise _invalid(exc) from exc
    if len(fields.images) > max_files:
        raise _too_many(max_files)
    uploads = []
    for index, text in enumerate(fields.images):
        try:
            uploads.append(Upload(f"images[{index}]", base64.b64decode(text, validate=True)))
        except (binascii.Error, ValueError) as exc:
            raise Problem(422, f"images[{index}]: expected base64 ({exc})") from exc
    return fields, uploads


def _invalid(error: ValidationError) -> Problem:
    """One line for all that is wrong; input is not repeated. 400 where the body is no JSON at all."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[:8]
    told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ") for item in first)
    return Problem(400 if first[0]["type"] == "json_invalid" else 422, told[:_MAX_DETAIL])


def _too_many(max_files: int) -> Problem:
    return Problem(413, f"files: at most {max_files} images a request (--max-files); send the rest in another")


class _Form:
    """A multipart body, taken apart in memory; every limit is checked as soon as it is passed."""

    def __init__(self, max_files: int) -> None:
        self._max_files = max_files
        self._values: list[tuple[str, str]] = []
        self.uploads: list[Upload] = []
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._disposition = b""
        self._data = bytearray()
        self._name, self._filename = "", ""
        self._is_file = self._ended = False

    def parse(self, header: str, body: bytes) -> None:
        """Read everything.

        Raises:
            Problem: see `parse`.
        """
        boundary = parse_options_header(header)[1].get(b"boundary")
        if not boundary:
            raise Problem(400, f"Content-Type: {MULTIPART} needs a boundary")
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._add,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        try:
            MultipartParser(boundary, callbacks).write(body)
        except FormParserError as exc:
            raise Problem(400, f"the body is no {MULTIPART} ({exc})") from exc
        if not self._ended:
            raise Problem(400, f"the body is no {MULTIPART}: its last boundary is missing")

    def fields(self) -> Fields:
        """The fields, checked."""
        values: dict[str, Any] = {}
        for name, text in self._values:
            if name in _LISTS:
                values.setdefault(name, []).extend(part.strip() for part in text.split(",") if part.strip())
            elif name in values:
                raise Problem(422, f"{name[:MAX_FILENAME]}: expected once, came several times")
            else:
                values[name] = text
        try:
            return Fields.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as exc:
            raise _invalid(exc) from exc

    def _begin(self) -> None:
        self._disposition = b""
        self._data = bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._is_file = b"filename" in options
        self._name = _text(options.get(b"name", b""), "the name of a field")
        if self._is_file:
            self._filename = _text(options[b"filename"], "a file name")
            if self._name != "files":
                raise Problem(422, f"{self._name[:MAX_FILENAME]}: files are expected in the field 'files'")
            if len(self.uploads) >= self._max_files:
                raise _too_many(self._max_files)
        elif self._name == "files":
            raise Problem(422, "files: expected a file with a file name, got text")
        elif len(self._values) >= MAX_FIELDS:
            raise Problem(400, f"expected at most {MAX_FIELDS} fields")

    def _add(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file and len(self._data) + end - start > MAX_FIELD_BYTES:
            raise Problem(413, f"{self._name[:MAX_FILENAME]}: expected at most {MAX_FIELD_BYTES} bytes of text")
        self._data += data[start:end]

    def _end(self) -> None:
        if self._is_file:
            self.uploads.append(Upload(self._filename, self._data))
        else:
            self._values.append((self._name, _text(bytes(self._data), f"the field {self._name[:MAX_FILENAME]!r}")))

    def _finish(self) -> None:
        self._ended = True


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Problem(422, f"{what}: expected UTF-8") from exc
