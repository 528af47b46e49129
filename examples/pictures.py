"""The pictures of the README, from a distillation of SmolLM2.

    KERAS_BACKEND=jax python examples/pictures.py

distils as `distill_smollm2.py` does, in as many minutes, and writes

- `rollout.svg`: what student and teacher write together before the training
  and after it, and who wrote which token,
- `history.svg`: the curves of the training.
"""

import argparse
import html
import pathlib

import keras
import keras_hub
import matplotlib
import smollm2

import keras_skd
from keras_skd import Source

IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"
COLORS = {Source.STUDENT: "#cfe3ff", Source.TEACHER: "#ffd8a8"}
# The width of a character and the height of a line, in pixels.
WIDTH, HEIGHT, CHARACTERS = 8, 24, 96


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=16, help="in 4 epochs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument("--output", default=IMAGES, type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)

    teacher = smollm2.load_teacher()
    student = smollm2.make_student(teacher)
    num_held_out = 16
    questions, answers = smollm2.load_questions(
        num_held_out + args.steps * args.batch_size, seed=args.seed
    )
    prompts = [smollm2.chat(question) for question in questions]
    held_out = {
        "prompts": prompts[:num_held_out],
        "responses": answers[:num_held_out],
    }
    sampler = keras_hub.samplers.RandomSampler(temperature=0.7)
    distiller = keras_skd.Distiller(
        teacher,
        student,
        rollout=keras_skd.rollouts.Speculative(
            student_sampler=sampler, teacher_sampler=sampler
        ),
        sequence_length=args.sequence_length,
        seed=args.seed,
    )
    distiller.compile(optimizer=keras.optimizers.Adam(5e-4))

    def response():
        rollout = distiller.generate_rollout({"prompts": prompts[:1]})
        (tokens,) = keras_skd.visualization.show_rollout(
            rollout, distiller
        ).tokens
        return [token for token in tokens if token.source in COLORS]

    before = response()
    history = distiller.fit(
        {"prompts": prompts[num_held_out:]},
        batch_size=args.batch_size,
        epochs=4,
        steps_per_epoch=max(1, args.steps // 4),
        validation_data=held_out,
        validation_batch_size=args.batch_size,
        verbose=2,
    )
    after = response()
    args.output.mkdir(parents=True, exist_ok=True)
    num_steps = int(distiller.optimizer.iterations)
    responses = {"before training": before, f"after {num_steps} steps": after}
    svg = rollout_svg(questions[0], responses)
    (args.output / "rollout.svg").write_text(svg, encoding="utf-8")
    # Letters as letters, and the same file from the same numbers.
    style = {"svg.fonttype": "none", "svg.hashsalt": "keras_skd"}
    with matplotlib.rc_context(style):
        keras_skd.visualization.plot_history(history).savefig(
            args.output / "history.svg", metadata={"Date": None}
        )
    print(f"Wrote rollout.svg and history.svg to {args.output}")


def rollout_svg(question, responses):
    """Responses as an SVG image, each token on the colour of its author.

    Args:
        question: str.
        responses: dict from titles to lists of tokens, as `show_rollout` has
            them.
    """
    lines = [[(question, None)]]
    for title, tokens in responses.items():
        lines += [[], [(title, None)], *wrapped(tokens)]
    lines += [
        [],
        [(" student ", Source.STUDENT), (" teacher ", Source.TEACHER)],
    ]
    shapes = []
    for row, line in enumerate(lines):
        x, y = 1, HEIGHT * row + 4
        for text, source in line:
            width = WIDTH * len(text)
            if source is not None:
                shapes.append(
                    f'<rect x="{WIDTH * x}" y="{y}" width="{width - 1}" '
                    f'height="{HEIGHT - 4}" rx="2" fill="{COLORS[source]}"/>'
                )
            weight = ' font-weight="bold"' if source is None else ""
            shapes.append(
                f'<text x="{WIDTH * x}" y="{y + 15}" xml:space="preserve" '
                f'textLength="{width}"{weight}>{html.escape(text)}</text>'
            )
            x += len(text)
    size = WIDTH * (CHARACTERS + 2), HEIGHT * len(lines) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" '
        f'height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}" '
        'font-family="monospace" font-size="13" fill="#111">\n'
        f'<rect width="{size[0]}" height="{size[1]}" fill="#fff"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def wrapped(tokens):
    """Lines of `(text, source)`, none longer than the image is wide."""
    lines, used = [[]], 0
    for token in tokens:
        text = token.text.replace("\n", "\u21b5")
        if used + len(text) > CHARACTERS:
            lines.append([])
            used = 0
        lines[-1].append((text, token.source))
        used += len(text)
    return lines


if __name__ == "__main__":
    main()
