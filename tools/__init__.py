"""What only maintainers run, and what measures: CONTRIBUTING.md says what each is for."""
