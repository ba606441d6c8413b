"""An HTTP service as others write them: FastAPI, which describes itself with an
OpenAPI 3.1 document at /openapi.json.

It prints what happens to requests, so that a test can wait for it.
"""

import asyncio
import os
from typing import Annotated, Literal

from fastapi import Body, Cookie, Depends, FastAPI, Header, HTTPException, Path, Query, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from fastapi.security import (
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
)
from pydantic import BaseModel

from serving import serve


def say(text: str) -> None:
    print(text, flush=True)


class Book(BaseModel):
    title: str
    pages: int
    sequel: "Book | None" = None


class Missing(BaseModel):
    detail: str


class Events(StreamingResponse):
    media_type = "text/event-stream"


app = FastAPI(title="Shelf", version="1")
bearer = HTTPBearer(auto_error=False)
basic = HTTPBasic()
SECRET = os.environ.get("SHELF_TOKEN", "")


@app.get("/books/{number}", operation_id="book", responses={404: {"model": Missing}}, tags=["books"])
async def book(number: Annotated[int, Path(ge=1)]) -> Book:
    """One book by its number."""
    if number > 2:
        raise HTTPException(404, "there is no such book")
    return Book(title=f"book {number}", pages=100, sequel=Book(title="more", pages=7))


@app.post("/books", operation_id="add", status_code=201)
async def add(book: Book, dry: bool = False) -> dict[str, object]:
    return {"added": book.title, "dry": dry}


@app.get("/echo/{first}", operation_id="echo")
async def echo(
    first: str,
    request: Request,
    tags: Annotated[list[str], Query()] = [],
    x_trace: Annotated[str | None, Header()] = None,
    session: Annotated[str | None, Cookie()] = None,
) -> dict[str, object]:
    return {
        "first": first,
        "tags": tags,
        "x_trace": x_trace,
        "session": session,
        "query": request.url.query,
    }


@app.get("/secret", operation_id="secret")
async def secret(held: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> bool:
    if held is None or held.credentials != SECRET:
        raise HTTPException(401, "who are you?")
    return True


@app.get("/member", operation_id="member")
async def member(shown: Annotated[HTTPBasicCredentials, Depends(basic)]) -> str:
    if f"{shown.username}:{shown.password}" != SECRET:
        raise HTTPException(401, "who are you?")
    return shown.username


@app.get("/open", operation_id="open_door")
async def open_door(authorization: Annotated[str | None, Header(include_in_schema=False)] = None) -> bool:
    return authorization is None


@app.get("/status/{status}", operation_id="status")
async def status(status: int, retry_after: int | None = None) -> None:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    raise HTTPException(status, "as you wish", headers=headers)


@app.get("/slow", operation_id="slow")
async def slow(request: Request, name: str) -> None:
    say(f"slow {name}: begun")
    while not await request.is_disconnected():
        await asyncio.sleep(0.02)
    say(f"slow {name}: cancelled")


@app.get("/ticks", operation_id="ticks", response_class=Events)
async def ticks(request: Request, count: int = 3):
    async def run():
        try:
            for n in range(count):
                yield f"event: tick\nid: {n}\ndata: {{\"n\": {n}}}\n\n"
                await asyncio.sleep(0.01)
            yield "data: [DONE]\n\n"
        finally:
            say(f"ticks {count}: ended")

    return Events(run())


@app.get("/text", operation_id="text", response_class=PlainTextResponse)
async def text() -> str:
    return "plain"


@app.get("/bytes", operation_id="bytes", response_class=Response,
         responses={200: {"content": {"application/octet-stream": {}}}})
async def raw():
    return Response(b"\x00\xff", media_type="application/octet-stream")


@app.get("/wrong/{kind}", operation_id="wrong", response_model=Book)
async def wrong(kind: Literal["shape", "json", "huge"]):
    body = {"shape": b'{"title": 1}', "json": b"{not json", "huge": b'"' + b"x" * 3_000_000 + b'"'}
    return Response(body[kind], media_type="application/json")


@app.get("/away", operation_id="away")
async def away(to: str):
    return RedirectResponse(to)


@app.post("/upload", operation_id="upload")
async def upload(data: Annotated[bytes, Body(media_type="application/octet-stream")]) -> int:
    return len(data)


if __name__ == "__main__":
    # With a certificate it is a service over HTTPS.
    serve(app, ssl_certfile=os.environ.get("SHELF_CERTIFICATE"),
          ssl_keyfile=os.environ.get("SHELF_KEY"))
