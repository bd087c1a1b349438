"""What only maintainers run: `cuda`, `variants`, `align`, `scaling`, `lm_eval`, `tour`; CONTRIBUTING.md says what for."""
