"""``plait demo``: a trained run as a page in the browser."""

from __future__ import annotations

import argparse

from plait.commands.base import Commands, say, size
from plait.commands.networks import add_own_parts, device, own_or_size, sizing, unfinished


def add(commands: Commands) -> None:
    """Declares the command."""
    demo_ = commands.add(
        "demo",
        demo,
        help="try a trained run in the browser: all tasks of your picture side by side, and in 3D",
        epilog=(
            "It needs pip install 'plait[demo]', serves this machine only, and ends with Ctrl-C.\n"
            "  plait demo runs/shared\n"
            "  plait demo hf:org/name --port 8000"
        ),
    )
    demo_.add_argument("run", metavar="RUN", help="a run's folder, or hf:org/name")
    demo_.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen; 0.0.0.0 lets everybody in who can reach this machine (default: 127.0.0.1)",
    )
    demo_.add_argument(
        "--port",
        type=int,
        default=7860,
        metavar="N",
        help="the port; 0 takes any that is free (default: 7860)",
    )
    demo_.add_argument(
        "--device",
        metavar="DEVICE",
        help="where to compute, as cpu or cuda:1 (default: an accelerator, else cpu)",
    )
    demo_.add_argument(
        "--size",
        type=own_or_size,
        metavar="HxW",
        help="fit pictures into this size, or own: keep theirs (default: as the run's evaluation)",
    )
    demo_.add_argument(
        "--tile",
        type=size,
        metavar="HxW",
        help="show them in tiles of this size; without --size, at their own",
    )
    add_own_parts(demo_)
    demo_.set_defaults(overlap=None)


def demo(parsed: argparse.Namespace) -> None:
    """Serves the page until it is stopped."""
    import signal
    from dataclasses import replace

    import plait
    from plait.demo.app import import_gradio
    from plait.demo.server import is_loopback, serving

    import_gradio()  # before the network is read, which takes longer
    predictor = plait.load(parsed.run, device=device(parsed), own_parts=parsed.own_parts)
    predictor = replace(predictor, sizing=sizing(parsed, predictor.sizing))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C, so that nothing is left
    for sentence in unfinished(predictor):
        say(sentence)
    if not is_loopback(parsed.host):
        say(
            f"listening at {parsed.host}: everybody who can reach this machine can use this demo, without a "
            f"password; leave --host out to serve this machine only"
        )
    try:
        with serving(predictor, host=parsed.host, port=parsed.port) as served:
            say(f"{parsed.run} at {served.address}    (Ctrl-C ends it)")
            served.wait()
    except KeyboardInterrupt:
        say("ended; what was uploaded is removed")
