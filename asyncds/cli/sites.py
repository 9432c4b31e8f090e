"""The machines that `asyncds run --on` names."""

from asyncds.launch.errors import UserError
from asyncds.launch.site import Site


def site(on: str) -> Site:
    """Where a run is put: slurm, ray or ray=ADDRESS. Raises UserError if it can't be."""
    kind, _, address = on.partition("=")
    if on == "slurm":
        from asyncds.launch.slurm import SlurmSite

        return SlurmSite()
    if kind != "ray":
        raise UserError(f"--on {on} is not known: give slurm, ray or ray=ADDRESS")
    from asyncds.launch.ray_site import RaySite

    return RaySite(address or "auto")
