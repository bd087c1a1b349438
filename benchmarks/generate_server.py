"""What people write first: a web application around transformers' `generate`, one request after the other.

python generate_server.py MODEL PORT. It streams as `/v1/completions` does, as far as the benchmark asks for it.
"""

import json
import sys
import threading

import torch
import transformers
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
alone = threading.Lock()


def pieces(prompt: list[int], count: int):
    """The events of one answer."""
    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
    ids = torch.tensor([prompt])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "streamer": streamer, "do_sample": False}
    with alone:
        thread = threading.Thread(
            target=model.generate, kwargs=given | {"max_new_tokens": count, "eos_token_id": None, "pad_token_id": 0}
        )
        thread.start()
        for text in streamer:
            yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
        thread.join()
    usage = {"completion_tokens": count}
    yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"


async def completions(request):
    """An answer, as events."""
    body = await request.json()
    events = iterate_in_threadpool(pieces(body["prompt"], body["max_tokens"]))
    return StreamingResponse(events, media_type="text/event-stream")


async def models(request):
    """That the server is there."""
    return JSONResponse({"data": []})


app = Starlette(routes=[Route("/v1/completions", completions, methods=["POST"]), Route("/v1/models", models)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
