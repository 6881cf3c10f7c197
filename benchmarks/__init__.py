# SPDX-License-Identifier: Apache-2.0
"""Measures bptt against every peer and against the machine's limit: `python -m benchmarks`. README.md is the map."""
