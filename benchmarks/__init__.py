"""The comparison of methods: runner, tables, suites, rivals, studies and results. No part of the package."""
