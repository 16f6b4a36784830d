"""Asks questions in an asyncio program: the event loop is never blocked, and cancelling a task stops its answer.

python examples/ask_async.py BUNDLE IMAGE QUESTION...

All questions are asked at the same time, each in its own conversation. The model computes one answer at a time, and the
others wait in order. The image is encoded once.
"""

import asyncio
import sys

import edge_llava


async def ask(model: edge_llava.LlavaModel, image: edge_llava.ImageEmbedding, question: str) -> None:
    chat = model.session(edge_llava.SamplingOptions(temperature=0))
    words = [token.text async for token in chat.ask_async(question, image=image)]
    print(f"{question} {''.join(words)}", flush=True)


async def main(bundle: str, image: str, *questions: str) -> None:
    # opening and encoding take seconds, so they run on a thread, too
    model = await asyncio.to_thread(edge_llava.load, bundle)
    try:
        embedding = await asyncio.to_thread(model.embed_image, image)
        await asyncio.gather(*(ask(model, embedding, question) for question in questions))
    finally:
        await asyncio.to_thread(model.close)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except edge_llava.EdgeLlavaError as error:
        sys.exit(str(error))
