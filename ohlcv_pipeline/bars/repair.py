"""Repair: what verification found damaged is healed, and every healed cell proven by its checksum.

Accounts come back from their second copies, byte for byte. Bars come back from the vendors' answers, which needs no
network; where those are gone, from what can still be read of the damaged file; else the vendors are asked again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from ohlcv_pipeline.bars.checksum import checksum, records
from ohlcv_pipeline.bars.replay import Part, Replay, rebuilt
from ohlcv_pipeline.bars.substitution import Cell, Plan, StoredBars, Wound, overlaps
from ohlcv_pipeline.bars.verify import Verification, hash_cells, mismatches, read_cells
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.files import DataFile
from ohlcv_pipeline.lake.mending import account_files, exchange, keep_evidence, rows_of
from ohlcv_pipeline.lake.store import Store, prepare_store
from ohlcv_pipeline.lake.tables import STORED_BARS
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline.vendors.base import Adapter

_EVER = (-(2**62), 2**62)

_FILE_STAYS = "its file cannot be read and holds bars that can be had nowhere else"

Name = tuple[str, str]
"""Symbol and partition of a cell."""

Ask = Callable[[Store, Market, Interval, Mapping[str, Sequence[str]]], None]
"""Fetches partitions by symbol again, with force, and publishes them in a lake."""


@dataclass
class Repair:
    """What was done, or in a dry run would be.

    `restored` are files of accounts brought back from their copies, `replaced` damaged files whose bars are now in
    others. `healed` cells hash to their manifest again and say `how`; of the `revised` the vendor now tells other
    values, which are published as a revision; `unhealed` say `why`. `sealed` counts files that had no seal.
    """

    restored: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    healed: list[dict[str, str]] = field(default_factory=list)
    revised: list[dict[str, str]] = field(default_factory=list)
    unhealed: list[dict[str, str]] = field(default_factory=list)
    sealed: int = 0

    def __bool__(self) -> bool:
        """Whether there was anything to repair."""
        return bool(self.restored or self.replaced or self.healed or self.revised or self.unhealed)


def repair(
    store: Store,
    tables: Sequence[tuple[Market, Interval]],
    check: Callable[[], Verification],
    now: datetime,
    *,
    adapters: Mapping[str, Adapter] | None = None,
    ask: Ask | None = None,
    apply: bool = True,
) -> tuple[Verification, Repair, Verification]:
    """Verify, heal what is damaged, and verify again; return what was found, what was done, and what is left.

    Args:
        store: the lake.
        tables: the tables that may be healed.
        check: verifies what this repair is about.
        now: the current instant.
        adapters: the vendors' adapters by name, by default every one there is.
        ask: how to ask the vendors for what the raw answers do not give; without it nothing leaves this machine.
        apply: False only finds out what would be done.

    Raises:
        LakeError: the catalog itself cannot be read or written.
    """
    done = Repair()
    for path in account_files(store):
        if store.writer.copies.differs(path) and (not apply or store.writer.copies.restore(path)):
            done.restored.append(str(path))
    if done.restored and not apply:
        # Without its accounts the lake cannot be verified; what else there is to do shows when they are back.
        found = Verification(damaged_files=list(done.restored))
        return found, done, found
    found = check()
    if found.passed:
        _seal(store, found, done, now, apply=apply)
        return found, done, found
    for market, interval in tables:
        table = _Table(store, market, interval, Replay.of(market, interval, store.raw, adapters), done)
        unproven = table.heal(found, apply=apply)
        if unproven and ask is not None and apply:
            had = table.delivered([cell for cell, _ in unproven], ask)
            unproven = table.heal(check(), let_go=had)
            unproven = table.fetch(unproven, had, ask)
        done.unhealed += [table.named(cell, why=why) for cell, why in unproven]
    left = check() if apply else found
    if left.passed:
        _seal(store, left, done, now, apply=apply)
    return found, done, left


def _seal(store: Store, proven: Verification, done: Repair, now: datetime, *, apply: bool) -> None:
    """Seal files without a seal, now that every cell hashes to its manifest."""
    if apply and proven.unsealed:
        done.sealed = store.writer.seal(now)
        proven.unsealed = []


@dataclass(frozen=True)
class _Table:
    """One table under repair."""

    store: Store
    market: Market
    interval: Interval
    replay: Replay
    done: Repair

    def named(self, cell: Cell, **more: str) -> dict[str, str]:
        return {
            "market": self.market.name,
            "interval": str(self.interval),
            "symbol": cell["symbol"],
            "partition": cell["partition"],
            **more,
        }

    def bounds(self, cell: Cell) -> tuple[int, int]:
        return self.market.partition_bounds(self.interval, cell["partition"])

    def heal(
        self, found: Verification, *, apply: bool = True, let_go: Set[Name] = frozenset()
    ) -> list[tuple[Cell, str]]:
        """Heal what needs no network; return the cells that could not be proven, and why.

        An unreadable file is ended only if each of its unproven cells is among those to `let_go`.
        """
        with self.store.writer.turn() if apply else nullcontext():
            wound = self._wound(found)
            if wound is None:
                return []
            plan = self._plan(wound, let_go)
            if apply:
                self._exchange(plan)
        self.done.replaced += [file.path for file in plan.ended]
        back = self._read_back([cell for cell, _ in plan.proven]) if apply else set()
        for cell, how in plan.proven:
            if _name(cell) in back:
                plan.unproven.append((cell, "its healed bars read back with another checksum"))
            else:
                self.done.healed.append(self.named(cell, how=how))
        return plan.unproven

    def _wound(self, found: Verification) -> Wound | None:
        """Return what of this table is damaged, None when nothing is."""
        damaged, files = set(found.damaged_files), self.store.reader.files(self.market.name, self.interval)
        wrong = {
            _name(row)
            for row in found.mismatched
            if row["market"] == self.market.name and row["interval"] == self.interval
        }
        ended = [file for file in files if file.path in damaged or file.marks in damaged]
        if any(text.startswith(f"{self.market.name} {self.interval}") for text in found.unreadable):
            ended += [file for file in files if file not in ended and not self._readable(file)]
        if not ended and not wrong:
            return None
        cells = [
            cell
            for cell in self.store.reader.manifest(self.market.name, self.interval).to_pylist()
            if _name(cell) in wrong or any(overlaps(f, *self.bounds(cell)) for f in ended)
        ]
        return Wound([file for file in files if file not in ended], ended, cells)

    def _readable(self, file: DataFile) -> bool:
        if "://" in file.path:
            return True
        try:
            rows_of(self.store, [file], *_EVER)
        except LakeError:
            return False
        return True

    def _plan(self, wound: Wound, let_go: Set[Name]) -> Plan:
        """Decide what takes the place of what is damaged."""
        plan = Plan()
        if not wound.cells:
            plan.ended = wound.ended
            return plan
        start, end = min(self.bounds(c)[0] for c in wound.cells), max(self.bounds(c)[1] for c in wound.cells)
        held = self._held(wound, start, end)
        names = [_name(cell) for cell in wound.cells]
        hashes = hash_cells(held.bars, self.market, self.interval, names)
        wrong = [cell for cell, found in zip(wound.cells, hashes, strict=True) if found != cell["checksum"]]
        parts, lost = self._parts(wrong)
        salvage = {file: self._salvage(file, start, end) for file in wound.ended}
        candidates: list[tuple[Cell, pa.Table, pa.Table | None, str]] = []
        for cell in wrong:
            before = held.of(cell["symbol"], *self.bounds(cell))
            candidates.append((cell, before, *self._proven(cell, before, parts, salvage, lost)))
        # A file that cannot be read may hold bars that nobody else does: it stays until the vendors have them.
        unproven = [cell for cell, _, bars, _ in candidates if bars is None]
        needed = [cell for cell in unproven if _name(cell) not in let_go]
        kept = [
            file
            for file in wound.ended
            if salvage[file] is None and any(overlaps(file, *self.bounds(cell)) for cell in needed)
        ]
        plan.ended = [file for file in wound.ended if file not in kept]
        plan.evidence = [f for f in plan.ended if any(overlaps(f, *self.bounds(cell)) for cell in unproven)]
        for cell, before, bars, how in candidates:
            if any(overlaps(file, *self.bounds(cell)) for file in kept):
                plan.unproven.append((cell, _FILE_STAYS))
                continue
            if bars is None:
                plan.unproven.append((cell, how))
                bars = self._still_readable(cell, before, salvage)
            else:
                plan.proven.append((cell, how))
            plan.replace(before, bars)
        return plan

    def _held(self, wound: Wound, start: int, end: int) -> StoredBars:
        """Return the bars of [start, end) in files that are not damaged, sorted by symbol and bucket."""
        if wound.ended:
            sound = [file for file in wound.sound if overlaps(file, start, end)]
            return StoredBars(rows_of(self.store, sound, start, end))
        return StoredBars(self.store.reader.stored(self.market.name, self.interval, start, end))

    def _parts(self, cells: Sequence[Cell]) -> tuple[dict[str, list[Part]], list[str]]:
        """Return what the raw answers that the cells name tell of each symbol, and which cannot be read."""
        ids = sorted({raw_id for cell in cells for raw_id in cell["raw_ids"]})
        start = min((self.bounds(cell)[0] for cell in cells), default=0)
        end = max((self.bounds(cell)[1] for cell in cells), default=0)
        symbols = sorted({cell["symbol"] for cell in cells})
        packs = self.store.reader.packs_of(ids) or self.replay.packs(symbols, start, end)
        parts, lost = self.replay.publications(packs, symbols, start, end)
        of_symbol: dict[str, list[Part]] = {}
        for part in parts:
            of_symbol.setdefault(part.asked.symbol, []).append(part)
        return of_symbol, lost

    def _salvage(self, file: DataFile, start: int, end: int) -> StoredBars | None:
        """Return what can still be read of a damaged file, None if nothing can."""
        try:
            return StoredBars(rows_of(self.store, [file], start, end))
        except LakeError:
            return None

    def _proven(
        self,
        cell: Cell,
        before: pa.Table,
        parts: Mapping[str, Sequence[Part]],
        salvage: Mapping[DataFile, StoredBars | None],
        lost: Sequence[str],
    ) -> tuple[pa.Table | None, str]:
        """Return bars that hash to the cell's checksum and where they are from; None and what is in the way."""
        bars = rebuilt(self.market, parts.get(cell["symbol"], ()), cell["raw_ids"], *self.bounds(cell))
        if self._hashes(cell, bars):
            return bars, "raw answers"
        stored = self._still_readable(cell, before, salvage)
        if self._hashes(cell, stored):
            return stored, "stored bars"
        if lost:
            return None, f"its raw answers cannot be read again: {lost[0]}"
        if not bars.num_rows:
            return None, "its raw answers are no longer kept"
        return None, "its raw answers do not give the checksum of the manifest"

    def _still_readable(self, cell: Cell, before: pa.Table, salvage: Mapping[DataFile, StoredBars | None]) -> pa.Table:
        saved = [rows.of(cell["symbol"], *self.bounds(cell)) for rows in salvage.values() if rows is not None]
        return pa.concat_tables([before, *saved]).sort_by("bucket_start")

    def _hashes(self, cell: Cell, bars: pa.Table) -> bool:
        return bool(checksum(cell["symbol"], self.interval, records(bars)) == cell["checksum"])

    def _exchange(self, plan: Plan) -> None:
        for file in plan.evidence:
            keep_evidence(self.store, file)
        none = STORED_BARS.empty_table()
        if plan.ended or plan.missing:
            exchange(
                self.store, self.market.name, self.interval, plan.ended, none, pa.concat_tables([none, *plan.missing])
            )
        if plan.wrong:
            exchange(
                self.store,
                self.market.name,
                self.interval,
                [],
                pa.concat_tables(plan.wrong),
                pa.concat_tables(plan.right),
            )

    def _read_back(self, cells: Sequence[Cell]) -> set[Name]:
        """Return those of some healed cells whose bars, read as anybody reads them, have another checksum."""
        if not cells:
            return set()
        keys, symbols = ([cell[name] for cell in cells] for name in ("partition", "symbol"))
        manifest = self.store.reader.manifest(self.market.name, self.interval, symbols, keys)
        bars = read_cells(self.store.reader, self.market, self.interval, manifest)
        return {_name(row) for row in mismatches(bars, self.market, self.interval, manifest)}

    def delivered(self, cells: Sequence[Cell], ask: Ask) -> set[Name]:
        """Return those cells of which the vendors deliver no fewer bars than are missing; found out in a lake aside.

        A publication measures what is stored: of a vendor that does not deliver it would make an account of nothing.
        """
        with tempfile.TemporaryDirectory() as folder:
            aside = prepare_store(
                f"sqlite:{folder}/catalog.sqlite", f"{folder}/data", Path(folder, "raw"), [self.market.name]
            )
            try:
                ask(aside, self.market, self.interval, _by_symbol(cells))
                rows = {_name(row): row["rows"] for row in self._manifest(aside)}
            finally:
                aside.catalog.close()
        return {_name(cell) for cell in cells if rows.get(_name(cell), 0) >= cell["rows"]}

    def fetch(self, unproven: Sequence[tuple[Cell, str]], had: Set[Name], ask: Ask) -> list[tuple[Cell, str]]:
        """Publish what the vendors have of cells again; return those that are still not what was published.

        Beside an unreadable file that stays nothing can be published, for a publication reads what is stored.
        """
        wanted = [cell for cell, why in unproven if _name(cell) in had and why != _FILE_STAYS]
        if wanted:
            ask(self.store, self.market, self.interval, _by_symbol(wanted))
        still = self._read_back(wanted)
        now = {_name(row): row["checksum"] for row in self._manifest(self.store)}
        left = []
        for cell, why in unproven:
            name = _name(cell)
            if name in had and why == _FILE_STAYS:
                left.append((cell, why))
            elif name not in had or name in still:
                left.append((cell, f"{why}, and the vendors do not deliver it"))
            elif now[name] == cell["checksum"]:
                self.done.healed.append(self.named(cell, how="vendors"))
            else:
                self.done.revised.append(self.named(cell, why=why, before=cell["checksum"], after=now[name]))
        return left

    def _manifest(self, store: Store) -> list[Cell]:
        return list(store.reader.manifest(self.market.name, self.interval).to_pylist())


def _name(cell: Cell) -> Name:
    return cell["symbol"], cell["partition"]


def _by_symbol(cells: Sequence[Cell]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for cell in cells:
        wanted.setdefault(cell["symbol"], []).append(cell["partition"])
    return wanted
