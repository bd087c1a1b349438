"""Serves a model and its adapters over HTTP: OpenAI's API at /v1, and a page to talk with them at /.

python serve.py --adapter runs/dailydialog-nano-lora            # then open http://127.0.0.1:8000
python serve.py --model gpt2 --adapter runs/chat --adapter qa=runs/squad
GPT2_JITTOR_API_KEY=… python serve.py --model gpt2 --host 0.0.0.0

Any client of OpenAI's works: openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none").
"""

import os

from common.command import Parser, run_command
from common.options import add_options, typed
from serving.adapters import ServedModels
from serving.options import ServingOptions


def parse() -> tuple[ServedModels, ServingOptions]:
    """Which models, and how they are served. Raises UserError for options that are wrong."""
    parser = Parser(prog="serve.py", description=__doc__)
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]RUN",
        help="a run's folder or a plain LoRA adapter of PEFT's, called NAME or as its folder; again for each",
    )
    add_options(parser, ServedModels)
    add_options(parser.add_argument_group("how they are served"), ServingOptions)
    given = parser.parse_args()
    models = ServedModels(**typed(ServedModels, given), adapter=tuple(given.adapter))
    models.adapters()
    options = ServingOptions(**typed(ServingOptions, given)).with_key(dict(os.environ))
    options.check()
    return models, options


def batcher_of(models: ServedModels, options: ServingOptions):
    """The side that computes, its models read. Everything that can be wrong is raised before Jittor is imported."""
    from generation.loading import check_weights
    from gpt2_jittor.runtime import runtime

    check_weights(models.weights, models.precision, models.device)
    sources = models.sources()
    check_weights(models.weights, models.precision, runtime.prepare(models.device))
    from serving.batcher import Batcher
    from serving.models import Models

    served = Models(sources, models, options.max_rows, options.cache_tokens)
    batcher = Batcher(served, options.piece, options.max_waiting)
    batcher.warm_up()
    return batcher


def main() -> None:
    """Checks the options, takes the port, reads the models, and serves until it is told to end."""
    models, options = parse()
    from serving.server import bound_socket, serve

    with bound_socket(options.host, options.port) as listening:
        serve(batcher_of(models, options), options, listening)


if __name__ == "__main__":
    run_command(main)
