"""Configuration: YAML to frozen types, once; every error names its path, its line and a fix."""

from gateway.config.fleet import BackendEndpoint, UpstreamTls, clusters_of, endpoints_of
from gateway.config.loading import load, parse
from gateway.config.problems import ConfigError, Problem
from gateway.config.schema import Config

__all__ = [
    "BackendEndpoint",
    "Config",
    "ConfigError",
    "Problem",
    "UpstreamTls",
    "clusters_of",
    "endpoints_of",
    "load",
    "parse",
]
