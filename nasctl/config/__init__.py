"""Layer 5: configurations: read, composed, checked. Hydra and pydantic are loaded when needed."""

from nasctl.config.load import (
    LoadedAblation,
    LoadedConfig,
    load_ablation,
    load_config,
    recipe_problems,
)
from nasctl.config.packaged import (
    PackagedConfig,
    init_dir,
    list_ablations,
    list_configs,
    list_verification,
    packaged_folder,
)
from nasctl.config.paths import with_whole_paths
from nasctl.config.resume import ablation_diff, config_diff, resolved_yaml, stored_config

__all__ = [
    "LoadedAblation",
    "LoadedConfig",
    "PackagedConfig",
    "ablation_diff",
    "config_diff",
    "init_dir",
    "list_ablations",
    "list_configs",
    "list_verification",
    "load_ablation",
    "load_config",
    "packaged_folder",
    "recipe_problems",
    "resolved_yaml",
    "stored_config",
    "with_whole_paths",
]
