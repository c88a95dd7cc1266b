"""Layer 5: what a network costs and where: `nasctl profile`."""

from nasctl.profile.figures import BlockFigures, Profile, profile_network
from nasctl.profile.target import Target, find_target, list_networks

__all__ = [
    "BlockFigures",
    "Profile",
    "Target",
    "find_target",
    "list_networks",
    "profile_network",
]
