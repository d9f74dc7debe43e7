"""The command line: `python -m ohlcv_pipeline.sandbox`.

Arguments and the server process only; what it serves is `app`'s.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys
from datetime import datetime

import uvicorn

from ohlcv_pipeline.sandbox.app import Config, create_app

_EPILOG = """\
paths:
  /coinbase/products/BTC-USD/candles?granularity=60&start=...&end=...
  /kraken/0/public/OHLC?pair=XBTUSD&interval=1
  /binance/api/v3/klines?symbol=BTCUSDT&interval=1m&startTime=...
  /binance_archive/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2026-11-18.zip[.CHECKSUM]
  /alpaca/v2/stocks/bars?symbols=AAPL,BRK.B&timeframe=1Min&start=...&end=...
  /tiingo/tiingo/daily/BRK-B/prices?startDate=2026-11-02&endDate=2026-11-18
  /tiingo/iex/BRK-B/prices?resampleFreq=1min&startDate=2026-11-18&endDate=2026-11-18
  /admin/health, /admin/faults, /admin/requests, /admin/outages, /admin/limits, /admin/clock,
  /admin/mail

examples:
  a quiet exchange for development:
      python -m ohlcv_pipeline.sandbox
  the same answers at any time of day, with the vendors' request limits:
      python -m ohlcv_pipeline.sandbox --now 2026-11-20T12:00:00Z --limits on
  let Coinbase fail three times:
      curl -d '{"kind":"outage","vendor":"coinbase","times":3}' http://127.0.0.1:8900/admin/faults
"""


def _loopback(text: str) -> str:
    try:
        if text == "localhost" or ipaddress.ip_address(text).is_loopback:
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text} is not a loopback address; the sandbox has no password")


def _instant(text: str) -> float:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text} is not an instant with a time zone, e.g. 2026-11-20T12:00:00Z")
    return instant.timestamp()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ohlcv_pipeline.sandbox",
        description="An exchange on loopback: made-up bars in the wire formats of Coinbase, Kraken, Binance, "
        "Alpaca and Tiingo.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", type=_loopback, default="127.0.0.1", help="loopback address (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8900, help="port, 0 for any free one (default 8900)")
    parser.add_argument("--smtp-port", type=int, help="port that takes mail, 0 for any free one (default: none)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed gives the same bars (default 7)")
    parser.add_argument(
        "--limits", choices=("on", "off"), default="off", help="enforce the vendors' request limits (default off)"
    )
    parser.add_argument("--now", type=_instant, metavar="INSTANT", help="freeze the clock (default: wall clock)")
    return parser.parse_args()


def main() -> None:
    """Serve until interrupted; one line on stdout says when and where the sandbox is ready."""
    arguments = _arguments()
    listener = socket.create_server((arguments.host, arguments.port), backlog=1024)
    mail = None
    if arguments.smtp_port is not None:
        mail = socket.create_server((arguments.host, arguments.smtp_port), backlog=128)
    config = Config(seed=arguments.seed, limits=arguments.limits == "on", now=arguments.now, mail=mail)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config),
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=1,
        )
    )
    # The socket already listens: a client that connects now waits until the server accepts.
    host, port = listener.getsockname()[:2]
    told = f"seed {config.seed}, limits {arguments.limits}"
    if mail is not None:
        told += f", mail {mail.getsockname()[1]}"
    sys.stdout.write(f"sandbox ready on http://{host}:{port} ({told})\n")
    sys.stdout.flush()
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
