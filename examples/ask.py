"""The shortest program that asks about an image.

python examples/ask.py BUNDLE IMAGE ["What is on the table?"]
"""

import sys

import edge_llava


def main(bundle: str, image: str, question: str = "What is shown in this picture?") -> None:
    with edge_llava.load(bundle) as model:
        chat = model.session(edge_llava.SamplingOptions(temperature=0))
        for token in chat.ask(question, image=image):
            print(token.text, end="", flush=True)
        print()
        # to ask more, chat.ask("And what else?"): the image stays in the conversation


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except edge_llava.EdgeLlavaError as error:  # what, where, and what next
        sys.exit(str(error))
