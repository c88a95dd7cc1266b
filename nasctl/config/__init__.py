"""Layer 5: configurations: read, composed, checked. Hydra and pydantic are loaded when needed."""

from nasctl.config.load import (
    LoadedConfig,
    PackagedConfig,
    config_diff,
    init_dir,
    list_configs,
    load_config,
    packaged_folder,
    resolved_yaml,
)

__all__ = [
    "LoadedConfig",
    "PackagedConfig",
    "config_diff",
    "init_dir",
    "list_configs",
    "load_config",
    "packaged_folder",
    "resolved_yaml",
]
