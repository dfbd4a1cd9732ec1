"""A web server for a compiled image classifier.

    pip install starlette uvicorn
    blox compile vit-digits --out vit-digits.program
    python examples/serve.py vit-digits.program
    curl --data-binary @examples/digits/7.png localhost:8000

Starlette is what FastAPI is made of, and needs little itself. Without uvicorn, any ASGI server
runs `app(file)`; put a proxy before it that limits the size of requests.
"""

import json
import sys

import jax
from jax import export
from safetensors import safe_open
from safetensors.flax import load_file
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from blox.zoo import ImagePreprocessor


def app(file: str) -> Starlette:
    """Answers an image that is posted to / with {'label': ..., 'probability': ...}."""
    weights = load_file(file)
    program = export.deserialize(bytearray(weights.pop('program').tobytes()))
    card = json.loads(safe_open(file, 'np').metadata()['blox.model'])
    prepare = ImagePreprocessor.from_fields(card['preprocessor'])
    run = jax.jit(lambda *inputs: jax.nn.softmax(program.call(*inputs)[0].astype('float32')))
    run(weights, jax.numpy.zeros((1, *prepare.size, len(prepare.mean))))  # Compiles it.

    def classify(body: bytes) -> JSONResponse:
        try:
            images = prepare(body)
        except ValueError as error:
            return JSONResponse({'error': str(error)}, 400)
        found = run(weights, images)
        best = int(found.argmax())
        label = card['labels'][best] if card['labels'] else str(best)
        return JSONResponse({'label': label, 'probability': float(found[best])})

    async def post(request: Request) -> JSONResponse:
        return await run_in_threadpool(classify, await request.body())

    return Starlette(routes=[Route('/', post, methods=['POST'])])


if __name__ == '__main__':
    import uvicorn

    uvicorn.run(app(sys.argv[1]))
