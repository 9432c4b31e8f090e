"""The learner as the coordinator sees it: the ranks of one incarnation."""


class WorkerGroup:
    """peers: of the ranks that are here.

    incarnation: theirs, "" while none has been here or all are lost. phase: what rank 0 said last.
    saving: MiB on the disk of the checkpoint that rank 0 waits for, 0 while it waits for none.
    heard: whether any rank ever said a word. seen: when one did last, or, before that, when the
    coordinator started.
    """

    def __init__(self, *, now: float) -> None:
        self.peers: dict[int, bytes] = {}
        self.incarnation = ""
        self.phase = ""
        self.saving = 0
        self.heard = False
        self.seen = now

    @property
    def here(self) -> bool:
        """Whether any rank is."""
        return bool(self.peers)

    def has(self, peer: bytes) -> bool:
        """Whether it is one of the ranks."""
        return peer in self.peers.values()

    def spoke(self, now: float) -> None:
        """One of the ranks did."""
        self.seen, self.heard = now, True

    def silent(self, now: float) -> float:
        """Seconds since one of the ranks spoke."""
        return now - self.seen

    def join(self, rank: int, peer: bytes) -> None:
        """A rank is here."""
        self.peers[rank] = peer

    def phase_is(self, phase: str) -> None:
        """Rank 0 said what it does."""
        self.phase = phase

    def has_saved(self, mebibytes: int) -> bool:
        """Rank 0 said how far the checkpoint is that it waits for; returns whether it got on."""
        got_on = mebibytes not in (0, self.saving)
        self.saving = mebibytes
        return got_on

    def leave(self, peer: bytes) -> None:
        """A rank leaves."""
        self.peers = {rank: p for rank, p in self.peers.items() if p != peer}

    def replace(self, incarnation: str) -> None:
        """Another one; its ranks are yet to come. "": none."""
        self.incarnation = incarnation
        self.peers = {}
